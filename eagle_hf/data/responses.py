"""The target answers every prompt, in this process; a run that was interrupted goes on where it was.

    folder/manifest.json         what answers and how; a rerun must agree with it
    folder/conversations.jsonl   one finished conversation a line, flushed after every batch

A batch holds conversations with as many turns each, longest first prompts first (so that a batch too large
for memory fails at once); turn t of a batch follows its turn t-1, and then the whole batch is written.
"""

import json
import os
import time
from dataclasses import dataclass, field
from pathlib import Path

from tqdm.auto import tqdm

from eagle_hf.data.manifest import check_manifest, library_versions
from eagle_hf.data.masking import eos_token_ids
from eagle_hf.data.sampling import batch_seed, generate_batch
from eagle_hf.data.template import render_text, template_sha256
from eagle_hf.provenance import weights_fingerprint

CONVERSATIONS = "conversations.jsonl"
SETTINGS = ("step", "target_weights", "template_sha256", "max_new_tokens", "temperature", "seed")


@dataclass
class ResponseReport:
    """What one call of `write_responses` did."""

    written: int = 0
    already_there: int = 0
    skipped: list[tuple[str, str]] = field(default_factory=list)  # (id, reason)
    tokens: int = 0  # response tokens written, end-of-turn tokens included
    cut: int = 0  # responses that max_new_tokens stopped
    seconds: float = 0.0


@dataclass
class _Setting:
    """All that stays the same from batch to batch."""

    target: object
    tokenizer: object
    stop: set[int]
    max_new_tokens: int
    temperature: float
    seed: int
    max_length: int


@dataclass
class _Conversation:
    """One prompt on its way to becoming a conversation."""

    prompt: dict
    messages: list[dict]
    ids: list[int] = field(default_factory=list)
    tokens: int = 0
    cut: int = 0
    failure: str | None = None


def write_responses(
    target,
    tokenizer,
    prompts: list[dict],
    folder: str | Path,
    *,
    max_new_tokens: int = 256,
    batch_size: int = 32,
    temperature: float = 0.0,
    seed: int = 0,
    max_length: int | None = None,
) -> ResponseReport:
    """The target's answers to all turns of all prompts, as conversations in `folder`; ids already there are left alone.

    `max_length` (tokens, default the target's max_position_embeddings) bounds prompt + max_new_tokens. Prompts
    beyond it and empty responses are skipped and reported. A folder made by another target, template or
    setting is a ValueError, and so is a run in which no prompt got a response.
    """
    _check_arguments(prompts, max_new_tokens, batch_size, temperature)
    started, folder = time.perf_counter(), Path(folder)
    limit = _length_limit(target, max_length)
    stop = eos_token_ids(target, tokenizer)
    setting = _Setting(target, tokenizer, stop, max_new_tokens, temperature, seed, limit)
    check_manifest(folder, _manifest(setting, batch_size), SETTINGS)
    done = finished_ids(folder / CONVERSATIONS)
    report = ResponseReport(already_there=sum(prompt["id"] in done for prompt in prompts))
    pending = _prepare([prompt for prompt in prompts if prompt["id"] not in done], setting, report)
    with (
        (folder / CONVERSATIONS).open("a", encoding="utf-8") as file,
        tqdm(
            total=len(prompts), initial=len(prompts) - len(pending), desc="responses", unit="prompt"
        ) as progress,
    ):
        for start in range(0, len(pending), batch_size):
            batch = pending[start : start + batch_size]
            _answer(batch, setting)
            _write(batch, file, report)
            report.seconds = time.perf_counter() - started
            progress.update(len(batch))
            progress.set_postfix_str(f"{report.tokens / report.seconds:.0f} tokens/s")
    if not report.written and not report.already_there:
        reasons = "; ".join(f"{id}: {reason}" for id, reason in report.skipped[:3])
        raise ValueError(
            f"none of {len(prompts)} prompts got a response ({reasons}); fix the prompts or the settings"
        )
    return report


def finished_ids(path: Path) -> set[str]:
    """The ids of the conversations in a file; a torn last line is cut off, a broken one before it is refused."""
    if not path.exists():
        return set()
    done, kept = set(), 0
    lines = path.read_bytes().splitlines(keepends=True)
    for number, line in enumerate(lines, start=1):
        try:
            if not line.endswith(b"\n"):
                raise ValueError("no newline")
            done.add(json.loads(line)["id"])
        except (ValueError, KeyError, TypeError) as error:
            if number < len(lines):
                raise ValueError(
                    f"line {number} of {path} is not a conversation ({error}); delete that line or the folder"
                ) from error
            os.truncate(path, kept)
        kept += len(line)
    return done


def _check_arguments(prompts, max_new_tokens: int, batch_size: int, temperature: float) -> None:
    if max_new_tokens < 1 or batch_size < 1 or temperature < 0:
        raise ValueError(
            f"max_new_tokens is {max_new_tokens}, batch_size {batch_size}, temperature {temperature}; "
            "the first two must be at least 1, temperature at least 0"
        )
    if not prompts:
        raise ValueError(
            "there are no prompts to answer; get some from read_prompts or magpie_prompts"
        )
    seen = set()
    for number, prompt in enumerate(prompts):
        if not prompt.get("id") or not prompt.get("turns"):
            raise ValueError(
                f"prompt {number} has the keys {sorted(prompt)}; a prompt needs an 'id' and 'turns'"
            )
        if prompt["id"] in seen:
            raise ValueError(f"two prompts have the id {prompt['id']!r}; give each its own")
        seen.add(prompt["id"])


def _length_limit(target, max_length: int | None) -> int:
    limit = max_length or getattr(target.config.get_text_config(), "max_position_embeddings", None)
    if limit is None:
        raise ValueError(
            "the target's config has no max_position_embeddings; pass max_length in tokens"
        )
    return limit


def _manifest(setting: _Setting, batch_size: int) -> dict:
    return {
        "step": "responses",
        "target": getattr(setting.target, "name_or_path", ""),
        "target_weights": weights_fingerprint(setting.target),
        "template_sha256": template_sha256(setting.tokenizer),
        "max_new_tokens": setting.max_new_tokens,
        "temperature": setting.temperature,
        "seed": setting.seed,
        "batch_size": batch_size,
        "versions": library_versions(),
    }


def _prepare(prompts: list[dict], setting: _Setting, report: ResponseReport) -> list[_Conversation]:
    """The conversations that can start, in the order of their batches."""
    pending = []
    for prompt in prompts:
        system = prompt.get("system")
        conversation = _Conversation(
            prompt, [{"role": "system", "content": system}] if system else []
        )
        _ask(conversation, prompt["turns"][0], setting)
        if conversation.failure:
            report.skipped.append((prompt["id"], conversation.failure))
        else:
            pending.append(conversation)
    return sorted(pending, key=lambda c: (len(c.prompt["turns"]), len(c.ids)), reverse=True)


def _answer(batch: list[_Conversation], setting: _Setting) -> None:
    """Every turn of the batch, asked and answered in turn."""
    for turn in range(max(len(conversation.prompt["turns"]) for conversation in batch)):
        active = [c for c in batch if not c.failure and turn < len(c.prompt["turns"])]
        if turn:
            for conversation in active:
                _ask(conversation, conversation.prompt["turns"][turn], setting)
            active = [c for c in active if not c.failure]
        if not active:
            return
        responses = generate_batch(
            setting.target,
            [conversation.ids for conversation in active],
            eos_token_ids=setting.stop,
            max_new_tokens=setting.max_new_tokens,
            temperature=setting.temperature,
            seed=batch_seed(setting.seed, turn, *(c.prompt["id"] for c in active)),
        )
        for conversation, ids in zip(active, responses, strict=True):
            _hear(conversation, ids, setting)


def _ask(conversation: _Conversation, turn: str, setting: _Setting) -> None:
    """The next user turn, rendered and tokenised; a failure where it does not fit."""
    conversation.messages.append({"role": "user", "content": turn})
    try:
        text = render_text(setting.tokenizer, conversation.messages, add_generation_prompt=True)
    except ValueError as error:
        conversation.failure = str(error)
        return
    conversation.ids = setting.tokenizer.encode(text, add_special_tokens=False)
    needed = len(conversation.ids) + setting.max_new_tokens
    if needed > setting.max_length:
        conversation.failure = (
            f"the prompt's {len(conversation.ids)} tokens and {setting.max_new_tokens} new ones are {needed}, "
            f"more than max_length {setting.max_length}; shorten it or lower max_new_tokens"
        )


def _hear(conversation: _Conversation, ids: list[int], setting: _Setting) -> None:
    """The target's answer as a message, without end-of-turn and special tokens."""
    text = setting.tokenizer.decode(ids, skip_special_tokens=True)
    if not text.strip():
        turn = sum(message["role"] == "user" for message in conversation.messages)
        conversation.failure = f"the response to turn {turn} has zero tokens of text"
    conversation.messages.append({"role": "assistant", "content": text})
    conversation.tokens += len(ids)
    conversation.cut += ids[-1] not in setting.stop


def _write(batch: list[_Conversation], file, report: ResponseReport) -> None:
    for conversation in batch:
        prompt = conversation.prompt
        if conversation.failure:
            report.skipped.append((prompt["id"], conversation.failure))
            continue
        row = {"id": prompt["id"], "messages": conversation.messages}
        row |= {key: prompt.get(key, "other") for key in ("source", "category")}
        file.write(json.dumps(row, ensure_ascii=False) + "\n")
        report.written += 1
        report.tokens += conversation.tokens
        report.cut += conversation.cut
    file.flush()
    os.fsync(file.fileno())
