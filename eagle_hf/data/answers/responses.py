"""The target answers every prompt, in this process; an interrupted run goes on where it stopped."""

import datetime
from collections.abc import Coroutine, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from eagle_hf.data.answers.collecting import answer_into_folder
from eagle_hf.data.answers.in_process import TargetAnswerer
from eagle_hf.data.answers.report import AnswerReport
from eagle_hf.data.answers.running import run_to_end
from eagle_hf.data.examples.turns import ROW_FORMAT
from eagle_hf.data.manifest import MANIFEST, library_versions, read_manifest
from eagle_hf.data.rows import Prompt, check_prompts
from eagle_hf.data.templates.arguments import TemplateArguments
from eagle_hf.data.templates.template import template_sha256

# Fields of the manifest that two runs in one folder must have in common. The format is none of
# them: rows of an older one stay as they are.
SETTINGS = (
    "step",
    "target_weights",
    "template_sha256",
    "chat_template_kwargs",
    "max_new_tokens",
    "temperature",
    "seed",
)


def write_responses(
    target: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Prompt],
    folder: str | Path,
    *,
    max_new_tokens: int = 256,
    batch_size: int = 32,
    temperature: float = 0.0,
    seed: int = 0,
    max_length: int | None = None,
    template_arguments: TemplateArguments | None = None,
) -> AnswerReport:
    """Let the target answer all turns of all prompts, and write the conversations to a folder.

    Prompts that the folder holds an answer to are left alone. Prompts that are too long and empty
    responses are skipped and reported.

    Args:
        target: the model that a draft head is trained for, with or without a PEFT adapter.
        tokenizer: its tokenizer, with a chat template.
        prompts: user turns with distinct ids.
        folder: on a local disk; is made where it does not exist.
        max_new_tokens: longest answer to one turn.
        batch_size: conversations that are answered together.
        temperature: 0 is greedy.
        seed: of all sampling.
        max_length: most tokens of a prompt and `max_new_tokens` together. Default: the target's
            `max_position_embeddings`.
        template_arguments: what the chat template is given beside the messages; a prompt's own
            win. A folder keeps the date of its first run. Default: none, and today's date.

    Returns:
        What this call wrote and skipped.

    Raises:
        ValueError: impossible arguments; a folder made by another target, template or setting; or
            a run in which no prompt got a response.
    """
    # Refuse what cannot work before anything is written.
    check_prompts(prompts)
    folder = Path(folder)
    answerer = TargetAnswerer(
        target,
        tokenizer,
        max_new_tokens=max_new_tokens,
        batch_size=batch_size,
        temperature=temperature,
        seed=seed,
        max_length=max_length,
        template_arguments=with_date_of(folder, template_arguments),
    )
    manifest = _manifest(answerer)

    def start() -> Coroutine[Any, Any, AnswerReport]:
        return answer_into_folder(answerer, prompts, folder, manifest, SETTINGS)

    return run_to_end(start)


def with_date_of(folder: Path, arguments: TemplateArguments | None) -> TemplateArguments:
    """Date the arguments of a template with the day on which a folder was begun.

    Args:
        folder: that answers are written to.
        arguments: of the run. None: no variables, and today.

    Returns:
        The arguments, with the folder's date where it has one.

    Raises:
        ValueError: the folder's manifest is no JSON object.
    """
    arguments = arguments or TemplateArguments()
    if not (folder / MANIFEST).exists():
        return arguments
    found = read_manifest(folder).get("date")
    if found is None:
        return arguments
    return replace(arguments, date=datetime.date.fromisoformat(found))


def _manifest(answerer: TargetAnswerer) -> dict[str, Any]:
    """What makes the folder; `SETTINGS` of it must not change."""
    return {
        "step": "responses",
        "format": ROW_FORMAT,
        "target": getattr(answerer.target, "name_or_path", ""),
        "target_weights": answerer.model,
        "template_sha256": template_sha256(answerer.tokenizer),
        "chat_template_kwargs": dict(answerer.arguments.variables) or None,
        "date": answerer.arguments.date.isoformat(),
        "max_new_tokens": answerer.max_new_tokens,
        "temperature": answerer.temperature,
        "seed": answerer.seed,
        "batch_size": answerer.batch_size,
        "versions": library_versions(),
    }
