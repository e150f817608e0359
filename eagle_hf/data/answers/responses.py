"""The target answers every prompt, in this process; an interrupted run goes on where it stopped."""

from collections.abc import Coroutine, Sequence
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from eagle_hf.data.answers.collecting import answer_into_folder
from eagle_hf.data.answers.in_process import TargetAnswerer
from eagle_hf.data.answers.manifests import OF_TARGET, target_manifest, with_date_of
from eagle_hf.data.answers.report import AnswerReport
from eagle_hf.data.answers.running import run_to_end
from eagle_hf.data.manifest import library_versions
from eagle_hf.data.rows import Prompt, check_prompts
from eagle_hf.data.templates.arguments import TemplateArguments


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
        return answer_into_folder(answerer, prompts, folder, manifest, OF_TARGET)

    return run_to_end(start)


def _manifest(answerer: TargetAnswerer) -> dict[str, Any]:
    """What makes the folder; `OF_TARGET` of it must not change."""
    shared = target_manifest(
        fingerprint=answerer.model,
        tokenizer=answerer.tokenizer,
        arguments=answerer.arguments,
        max_new_tokens=answerer.max_new_tokens,
        temperature=answerer.temperature,
        seed=answerer.seed,
    )
    return shared | {
        "target": getattr(answerer.target, "name_or_path", ""),
        "batch_size": answerer.batch_size,
        "versions": library_versions(),
    }
