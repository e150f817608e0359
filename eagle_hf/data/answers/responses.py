"""The target answers every prompt, in this process; an interrupted run goes on where it stopped.

folder/manifest.json         what answers and how; a rerun must agree with it
folder/conversations.jsonl   one finished conversation a line, flushed after every batch
"""

import datetime
import json
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TextIO

from tqdm.auto import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from eagle_hf.data.answers.answering import (
    AnswerSettings,
    PendingConversation,
    answer_batch,
    start_conversations,
)
from eagle_hf.data.manifest import MANIFEST, check_manifest, library_versions, read_manifest
from eagle_hf.data.masking import eos_token_ids
from eagle_hf.data.rows import Prompt, SkippedRow, check_prompts, first_reasons
from eagle_hf.data.template import chat_template, template_sha256
from eagle_hf.data.template_arguments import TemplateArguments
from eagle_hf.data.turns import ROW_FORMAT
from eagle_hf.provenance import weights_fingerprint
from eagle_hf.target import context_length

CONVERSATIONS = "conversations.jsonl"

# Fields of the manifest that two runs in one folder must have in common.
SETTINGS = (
    "step",
    "format",
    "target_weights",
    "template_sha256",
    "chat_template_kwargs",
    "max_new_tokens",
    "temperature",
    "seed",
)


@dataclass
class ResponseReport:
    """What one call of `write_responses` did.

    Attributes:
        written: conversations added to the file.
        already_there: prompts that an earlier run answered.
        skipped: prompts without a conversation.
        tokens: response tokens written, end-of-turn tokens included.
        cut: responses that `max_new_tokens` stopped.
        seconds: of wall-clock time.
    """

    written: int = 0
    already_there: int = 0
    skipped: list[SkippedRow] = field(default_factory=list)
    tokens: int = 0
    cut: int = 0
    seconds: float = 0.0

    def count(self, batch: Sequence[PendingConversation]) -> None:
        """Add conversations that are written or have failed."""
        for conversation in batch:
            if conversation.failure is not None:
                self.skipped.append(SkippedRow(conversation.prompt["id"], conversation.failure))
                continue
            self.written += 1
            self.tokens += conversation.tokens
            self.cut += conversation.cut


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
) -> ResponseReport:
    """Let the target answer all turns of all prompts, and write the conversations to a folder.

    Prompts that the folder holds an answer to are left alone. Prompts that are too long and empty
    responses are skipped and reported.

    Args:
        target: the model that a draft head is trained for, with or without a PEFT adapter.
        tokenizer: its tokenizer, with a chat template.
        prompts: user turns with distinct ids.
        folder: is made where it does not exist.
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
    started = time.perf_counter()
    # 1) Refuse what cannot work before anything is written.
    _check_settings(max_new_tokens, batch_size, temperature)
    check_prompts(prompts)
    folder = Path(folder)
    limit = _length_limit(target, max_length)
    arguments = _with_date_of(folder, template_arguments or TemplateArguments())
    arguments.check_read_by(chat_template(tokenizer))
    settings = AnswerSettings(
        target=target,
        tokenizer=tokenizer,
        stop=eos_token_ids(target, tokenizer),
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        seed=seed,
        max_length=limit,
        arguments=arguments,
    )
    check_manifest(folder, _manifest(settings, batch_size), SETTINGS)
    # 2) Find out which prompts are left.
    path = folder / CONVERSATIONS
    done = finished_ids(path)
    remaining = [prompt for prompt in prompts if prompt["id"] not in done]
    pending, failed = start_conversations(remaining, settings)
    report = ResponseReport(already_there=len(prompts) - len(remaining))
    report.count(failed)
    # 3) Answer them batch by batch.
    finished = len(prompts) - len(pending)
    progress = tqdm(total=len(prompts), initial=finished, desc="responses", unit="prompt")
    with path.open("a", encoding="utf-8") as file, progress:
        for start in range(0, len(pending), batch_size):
            batch = pending[start : start + batch_size]
            answer_batch(batch, settings)
            _write(batch, file)
            report.count(batch)
            report.seconds = time.perf_counter() - started
            progress.update(len(batch))
            progress.set_postfix_str(f"{report.tokens / report.seconds:.0f} tokens/s")
    _check_report(report, len(prompts))
    return report


def finished_ids(path: Path) -> set[str]:
    """Read which conversations a file holds.

    Args:
        path: a JSON-lines file of an earlier run. A torn last line is cut off.

    Returns:
        Their ids; none where there is no file.

    Raises:
        ValueError: a line before the last is no conversation.
    """
    if not path.exists():
        return set()
    done = set()
    good_bytes = 0
    lines = path.read_bytes().splitlines(keepends=True)
    for number, line in enumerate(lines, start=1):
        try:
            if not line.endswith(b"\n"):
                raise ValueError("no newline")
            done.add(json.loads(line)["id"])
        except (ValueError, KeyError, TypeError) as error:
            if number < len(lines):
                raise ValueError(
                    f"line {number} of {path} is not a conversation ({error}); "
                    "delete that line or the folder"
                ) from error
            # The run was killed while it wrote this line.
            os.truncate(path, good_bytes)
        good_bytes += len(line)
    return done


def _check_settings(max_new_tokens: int, batch_size: int, temperature: float) -> None:
    """Refuse settings out of range."""
    is_out_of_range = max_new_tokens < 1 or batch_size < 1 or temperature < 0
    if is_out_of_range:
        raise ValueError(
            f"max_new_tokens is {max_new_tokens}, batch_size {batch_size}, temperature "
            f"{temperature}; the first two must be at least 1, temperature at least 0"
        )


def _length_limit(target: PreTrainedModel, max_length: int | None) -> int:
    """Most tokens of a conversation; ValueError where neither the caller nor the target says."""
    limit = max_length or context_length(target)
    if limit is None:
        raise ValueError(
            "the target's config has no max_position_embeddings; pass max_length in tokens"
        )
    return limit


def _with_date_of(folder: Path, arguments: TemplateArguments) -> TemplateArguments:
    """The arguments with the date on which the folder was begun."""
    if not (folder / MANIFEST).exists():
        return arguments
    found = read_manifest(folder).get("date")
    if found is None:
        return arguments
    return replace(arguments, date=datetime.date.fromisoformat(found))


def _manifest(settings: AnswerSettings, batch_size: int) -> dict[str, Any]:
    """What makes the folder; `SETTINGS` of it must not change."""
    return {
        "step": "responses",
        "format": ROW_FORMAT,
        "target": getattr(settings.target, "name_or_path", ""),
        "target_weights": weights_fingerprint(settings.target),
        "template_sha256": template_sha256(settings.tokenizer),
        "chat_template_kwargs": dict(settings.arguments.variables) or None,
        "date": settings.arguments.date.isoformat(),
        "max_new_tokens": settings.max_new_tokens,
        "temperature": settings.temperature,
        "seed": settings.seed,
        "batch_size": batch_size,
        "versions": library_versions(),
    }


def _check_report(report: ResponseReport, prompts: int) -> None:
    """Refuse a run from which nothing came: its prompts or settings are wrong."""
    if report.written or report.already_there:
        return
    reasons = first_reasons(report.skipped, "")
    raise ValueError(
        f"none of {prompts} prompts got a response ({reasons}); fix the prompts or the settings"
    )


def _write(batch: Sequence[PendingConversation], file: TextIO) -> None:
    """Append the conversations that did not fail; they are on disk when this returns."""
    for conversation in batch:
        if conversation.failure is None:
            row = conversation.conversation()
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    file.flush()
    os.fsync(file.fileno())
