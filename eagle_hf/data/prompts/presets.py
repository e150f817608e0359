"""Well-known data sets by name, with what has to be known before they are used.

Licences and terms were compared with copies of the cards and of the terms in November 2026; what
the card says today counts. Only the user turns are needed here, because the target answers them
itself. `answers_allowed` says whether the answers that come with them may be trained on as well.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Preset:
    """A data set on the Hub.

    Attributes:
        dataset: its id.
        licence: of the data set, as an SPDX id or in words.
        written_by: who wrote the answers.
        answers_allowed: whether a model may be trained on them.
        reason: why, or under which condition.
        split: the one for training.
        data_file: the file that is read, where the repository holds others too.
    """

    dataset: str
    licence: str
    written_by: str
    answers_allowed: bool
    reason: str
    split: str = "train"
    data_file: str | None = None


OPENAI_TERMS = "OpenAI's terms bar training models that compete with its own on its output"

PRESETS: dict[str, Preset] = {
    "ultrachat": Preset(
        dataset="HuggingFaceH4/ultrachat_200k",
        licence="MIT",
        written_by="ChatGPT",
        answers_allowed=False,
        reason=OPENAI_TERMS,
        split="train_sft",
    ),
    "sharegpt": Preset(
        dataset="anon8231489123/ShareGPT_Vicuna_unfiltered",
        licence="Apache-2.0 for the collection; its users wrote the prompts",
        written_by="ChatGPT",
        answers_allowed=False,
        reason=OPENAI_TERMS,
        data_file="ShareGPT_V3_unfiltered_cleaned_split.json",
    ),
    "wildchat": Preset(
        dataset="allenai/WildChat-1M",
        licence="ODC-BY-1.0",
        written_by="GPT-3.5 and GPT-4",
        answers_allowed=False,
        reason=OPENAI_TERMS,
    ),
    "tulu3": Preset(
        dataset="allenai/tulu-3-sft-mixture",
        licence="ODC-BY-1.0; some parts are not for commercial use",
        written_by="several models and people",
        answers_allowed=False,
        reason="the terms differ from part to part, and parts were written by OpenAI's models",
    ),
    "magpie-llama-3.1": Preset(
        dataset="Magpie-Align/Magpie-Llama-3.1-Pro-MT-300K-Filtered",
        licence="Llama 3.1 Community License",
        written_by="Llama-3.1-70B-Instruct",
        answers_allowed=True,
        reason="the name of a model that is trained on them and passed on must begin with 'Llama', "
        "and 'Built with Llama' must be shown beside it",
    ),
    "openthoughts": Preset(
        dataset="open-thoughts/OpenThoughts-114k",
        licence="Apache-2.0",
        written_by="DeepSeek-R1",
        answers_allowed=True,
        reason="DeepSeek-R1's licence (MIT) allows it, training other models included",
    ),
    "dolly": Preset(
        dataset="databricks/databricks-dolly-15k",
        licence="CC-BY-SA-3.0",
        written_by="people",
        answers_allowed=True,
        reason="name the authors, and share what is derived under the same licence",
    ),
    "alpaca": Preset(
        dataset="tatsu-lab/alpaca",
        licence="CC-BY-NC-4.0; CC-BY-4.0 on earlier cards",
        written_by="text-davinci-003",
        answers_allowed=False,
        reason=f"not for commercial use, and {OPENAI_TERMS}",
    ),
}


def describe_preset(name: str) -> str:
    """Say what has to be known before a data set is used.

    Args:
        name: one of `PRESETS`.

    Returns:
        One line: data set, licence, who wrote the answers, and whether they may be trained on.

    Raises:
        ValueError: no preset has this name; the error lists the names.
    """
    if name not in PRESETS:
        raise ValueError(f"no preset is called {name!r}; take one of {', '.join(PRESETS)}")
    preset = PRESETS[name]
    verdict = "may be used for training" if preset.answers_allowed else "not for training"
    return (
        f"{name}: {preset.dataset}, licence {preset.licence}; answers by {preset.written_by}: "
        f"{verdict} ({preset.reason})"
    )


def check_answers_allowed(name: str) -> None:
    """Refuse to train on the answers of a preset whose terms do not allow it.

    Args:
        name: one of `PRESETS`.

    Raises:
        ValueError: its answers may not be used.
    """
    preset = PRESETS[name]
    if preset.answers_allowed:
        return
    raise ValueError(
        f"{describe_preset(name)}; take its prompts and let the target answer them, or name "
        f"{preset.dataset} itself where you have the rights"
    )
