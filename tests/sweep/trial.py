"""Every assistant on one tiny model: served losslessly, refused by name, or a finding."""

import copy
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

import eagle_hf
from eagle_hf import Eagle3Config, Eagle3DraftHead, SelfSpeculation, TreeConfig, WindowedDraft
from sweep.models import Entry, build, prompts

NEW_TOKENS = 16
SETTINGS = {
    "greedy": ([9], dict(do_sample=False)),
    "sampled": ([9], dict(do_sample=True, top_k=0)),
    "ragged": ([11, 4], dict(do_sample=False)),
}
NOISE = 0.02
PACKAGE = Path(eagle_hf.__file__).parent


@dataclass(frozen=True)
class Outcome:
    """What became of one assistant on one target.

    Attributes:
        kind: "served", "refused", or what is a finding: "crash", "late refusal", "difference".
        detail: The sentence of a refusal; the setting and what happened of a finding.
        tau: Mean tokens a round, where it was served.
    """

    kind: str
    detail: str = ""
    tau: float = 0.0

    @property
    def is_finding(self) -> bool:
        """Whether the assistant did what none may do."""
        return self.kind not in ("served", "refused")


def random_head(target: PreTrainedModel) -> Eagle3DraftHead:
    """A head whose trees are so wide that drafts are accepted by luck."""
    torch.manual_seed(1)
    head = Eagle3DraftHead(Eagle3Config.from_target(target))
    head.tree = TreeConfig(depth=3, top_k=10, nodes=40)
    return head.to(target.dtype).eval()


def noisy_copy(target: PreTrainedModel) -> PreTrainedModel:
    """A draft model that is right most of the time."""
    copied = copy.deepcopy(target)
    torch.manual_seed(1)
    with torch.no_grad():
        for weight in copied.parameters():
            weight.add_(torch.randn_like(weight), alpha=NOISE)
    return copied


def whole_draft(target: PreTrainedModel) -> WindowedDraft:
    """The noisy copy on its whole cache, drafting trees."""
    assistant = WindowedDraft(noisy_copy(target), window=None)
    assistant.tree = TreeConfig(depth=3, top_k=3, nodes=10)
    return assistant


def windowed_draft(target: PreTrainedModel) -> WindowedDraft:
    """The noisy copy behind a window."""
    return WindowedDraft(noisy_copy(target), sinks=2, window=9, gamma=3)


def self_speculation(target: PreTrainedModel) -> SelfSpeculation:
    """The target behind a window of its own."""
    return SelfSpeculation(sinks=2, window=9, gamma=3)


ASSISTANTS: dict[str, Callable[[PreTrainedModel], Any]] = {
    "head": random_head,
    "WindowedDraft(window=None)": whole_draft,
    "WindowedDraft": windowed_draft,
    "SelfSpeculation": self_speculation,
}


class PromptReads:
    """Counts the forwards inside a block in which a target reads the prompt.

    Forwards over other tokens are allowed before a refusal: that is how a target is tried.
    """

    def __init__(self, target: PreTrainedModel, prompt: torch.Tensor) -> None:
        self.target = target
        self.prompt = prompt
        self.count = 0

    def __enter__(self) -> "PromptReads":
        self.handle = self.target.register_forward_pre_hook(self._look, with_kwargs=True)
        return self

    def __exit__(self, *error: object) -> None:
        self.handle.remove()

    def _look(self, module: Any, args: Any, kwargs: dict[str, Any]) -> None:
        tokens = kwargs.get("input_ids")
        if tokens is not None and torch.equal(tokens, self.prompt):
            self.count += 1


def try_class(entry: Entry) -> dict[str, Outcome]:
    """What becomes of every assistant on the tiny model of a class.

    A target that cannot generate by itself (some ask for inputs beside the text) may still refuse
    by name.
    """
    target = build(entry)
    error = None
    try:
        expected = {setting: generate(entry, target, setting, None) for setting in SETTINGS}
    except Exception as caught:
        error = caught
        expected = dict.fromkeys(SETTINGS)
    outcomes = {}
    for name in ASSISTANTS:
        outcome = attempt(entry, target, name, expected)
        if error is not None and outcome.kind != "refused":
            outcome = Outcome("no plain generate", f"{type(error).__name__}: {error}")
        outcomes[name] = outcome
    return outcomes


def attempt(
    entry: Entry, target: PreTrainedModel, name: str, expected: dict[str, torch.Tensor | None]
) -> Outcome:
    """One assistant in every setting, up to the first that is not served.

    Args:
        entry: The class.
        target: Its tiny model.
        name: The assistant, one of `ASSISTANTS`.
        expected: The target's own tokens of every setting; None where it generates none.
    """
    rounds = 0
    tokens = 0
    assistant = None
    for setting, plain in expected.items():
        prompt = prompts(entry, target, SETTINGS[setting][0])["input_ids"]
        with PromptReads(target, prompt) as reads:
            try:
                assistant = assistant or ASSISTANTS[name](target)
                output = generate(entry, target, setting, assistant)
            except Exception as error:
                return failed(error, setting, reads.count)
        if plain is None or not torch.equal(output, plain):
            return Outcome("difference", f"{setting}: {first_difference(output, plain)}")
        rounds += assistant.last_run.rounds
        tokens += assistant.last_run.tokens
    return Outcome("served", tau=tokens / max(rounds, 1))


def generate(entry: Entry, target: PreTrainedModel, setting: str, assistant: Any) -> torch.Tensor:
    """The tokens of one setting, with an assistant or alone."""
    lengths, settings = SETTINGS[setting]
    inputs = prompts(entry, target, lengths)
    torch.manual_seed(0)
    return target.generate(
        **inputs, **settings, assistant_model=assistant, max_new_tokens=NEW_TOKENS
    )


def failed(error: Exception, setting: str, reads: int) -> Outcome:
    """An error as an outcome: a refusal is our ValueError, before a prompt is read."""
    sentence = " ".join(str(error).split())
    raised_in = Path(traceback.extract_tb(error.__traceback__)[-1].filename)
    if not isinstance(error, ValueError) or PACKAGE not in raised_in.parents:
        return Outcome("crash", f"{setting}: {type(error).__name__}: {sentence}")
    if reads:
        return Outcome("late refusal", f"{setting}: {sentence}")
    return Outcome("refused", sentence)


def first_difference(output: torch.Tensor, plain: torch.Tensor | None) -> str:
    """Where two batches of tokens part."""
    if plain is None:
        return "tokens in place of none"
    if output.shape != plain.shape:
        return f"shape {tuple(output.shape)} in place of {tuple(plain.shape)}"
    row, place = (output != plain).nonzero()[0].tolist()
    return f"token {place} of row {row} is {output[row, place]}, not {plain[row, place]}"
