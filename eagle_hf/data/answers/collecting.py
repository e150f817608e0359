"""Prompts go in, finished turns go to disk, and every prompt is counted once.

folder/manifest.json   which model answers and how; a rerun must agree with it
folder/turns.sqlite    every finished turn (see store.py)

A killed run loses no finished turn. The next one asks for what is missing, which is at most what
was in flight and what failed.
"""

import asyncio
import json
import time
from collections.abc import Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from eagle_hf.data.answers.answerer import ServedAnswerer
from eagle_hf.data.answers.recovery import IdRecovery
from eagle_hf.data.answers.settings import ServingSettings
from eagle_hf.data.answers.store import TurnStore
from eagle_hf.data.answers.turns import (
    MISSING,
    RECOVERED,
    Answerer,
    FailedTurn,
    FinishedTurn,
    OpenConversation,
    early_end,
)
from eagle_hf.data.answers.wire import is_writable
from eagle_hf.data.manifest import check_manifest, library_versions, only_one_run
from eagle_hf.data.rows import Prompt, SkippedRow, check_prompts, first_reasons

SYNC_S = 0.5  # between two writes to the disk itself, in seconds
# Fields of the manifest that two runs in one folder must have in common.
SETTINGS = ("step", "model", "max_new_tokens", "temperature", "seed", "request_fields")


@dataclass
class AnswerReport:
    """What one run did. `finished`, `already_there`, `skipped` and `failed` add up to the prompts.

    Attributes:
        finished: prompts whose last turn was answered in this run.
        already_there: prompts that earlier runs had answered.
        skipped: prompts that cannot be asked, or are refused, or whose answers are worth nothing.
        failed: prompts that were not answered, although they could be; a rerun asks again.
        turns: turns that were answered in this run.
        cut: of these, turns that max_new_tokens stopped.
        recovered: of these, turns with ids of which some were recovered by tokenizing.
        without_ids: of these, turns with ids of which some are missing.
        sampled_tokens: tokens of the answers, as far as the servers count them.
        seconds: of wall-clock time.
    """

    finished: int = 0
    already_there: int = 0
    skipped: list[SkippedRow] = field(default_factory=list)
    failed: list[SkippedRow] = field(default_factory=list)
    turns: int = 0
    cut: int = 0
    recovered: int = 0
    without_ids: int = 0
    sampled_tokens: int = 0
    seconds: float = 0.0

    @property
    def prompts(self) -> int:
        """How many prompts are counted."""
        return self.finished + self.already_there + len(self.skipped) + len(self.failed)

    def count_turn(self, turn: FinishedTurn) -> None:
        """Add a turn that is kept."""
        sources = (turn.prompt_ids_from, turn.response_ids_from)
        self.turns += 1
        self.cut += turn.finish_reason == "length"
        self.without_ids += MISSING in sources
        self.recovered += RECOVERED in sources and MISSING not in sources
        self.sampled_tokens += turn.sampled_tokens or 0


def write_served_responses(
    servers: Sequence[str],
    prompts: Sequence[Prompt],
    folder: str | Path,
    settings: ServingSettings,
    *,
    recovery: IdRecovery | None = None,
    api_key: str | None = None,
) -> AnswerReport:
    """Let servers answer all turns of all prompts, and keep the turns in a folder.

    Args:
        servers: addresses of OpenAI-compatible servers that all serve the target.
        prompts: user turns with distinct ids.
        folder: on a local disk; is made where it does not exist.
        settings: the target's name on the servers, and how they are asked.
        recovery: fills in token ids that the servers do not give. None: they stay missing.
        api_key: sent to every server. It is kept nowhere.

    Returns:
        What this run answered, skipped and failed to answer.

    Raises:
        ValueError: impossible arguments; a server that does not list the target, or answers with
            another model; a folder made with other settings; or a run in which no prompt got a
            response.
    """
    # 1) Refuse what cannot work before anything is written.
    check_prompts(prompts)
    _check_no_loop()
    answerer = ServedAnswerer(servers, settings, recovery, api_key)
    asyncio.run(answerer.check_servers())
    folder = Path(folder)
    with only_one_run(folder):
        check_manifest(folder, _manifest(settings, servers), SETTINGS)
        # 2) Ask for what the folder does not hold yet.
        with TurnStore(folder) as store:
            report = asyncio.run(collect_answers(answerer, prompts, store))
    # 3) Refuse a run from which nothing came: its prompts or settings are wrong.
    if not report.finished and not report.already_there:
        reasons = first_reasons(report.failed + report.skipped, "")
        raise ValueError(
            f"none of {len(prompts)} prompts got a response ({reasons}); fix the prompts, the "
            "settings or the servers"
        )
    return report


async def collect_answers(
    answerer: Answerer, prompts: Sequence[Prompt], store: TurnStore
) -> AnswerReport:
    """Let anything that answers go through prompts, and keep what it says.

    Args:
        answerer: servers, or any other `Answerer`.
        prompts: user turns with distinct ids.
        store: holds the turns of earlier runs, which are not asked again.

    Returns:
        What this run answered, skipped and failed to answer.

    Raises:
        ValueError: two prompts share an id, or the store holds answers of another target, or to
            another prompt under one of the ids.
    """
    check_prompts(prompts)
    _check_same_target(answerer, store)
    for prompt in prompts:
        if _is_writable(prompt):
            _check_same_question(prompt, store.prompt(prompt["id"]))
    collection = _Collection(prompts, store)
    syncing = asyncio.create_task(_sync_again_and_again(store))
    try:
        async with aclosing(answerer.answer(collection.unfinished())) as outcomes:
            async for outcome in outcomes:
                collection.take(outcome)
    finally:
        syncing.cancel()
        collection.close()
        store.sync()
    report = collection.report
    assert report.prompts == len(prompts), "every prompt is counted once"
    return report


class _Collection:
    """The prompts of one run and what has become of them."""

    def __init__(self, prompts: Sequence[Prompt], store: TurnStore):
        self.prompts = prompts
        self.store = store
        self.report = AnswerReport()
        self._started = time.perf_counter()
        self._asked: dict[str, Prompt] = {}  # that are being answered
        self._progress = tqdm(total=len(prompts), desc="responses", unit="prompt")

    def unfinished(self) -> Iterator[OpenConversation]:
        """The conversations that have turns left, each read from the store when it is needed."""
        for prompt in self.prompts:
            name = prompt["id"]
            if not _is_writable(prompt):
                self._skip(name, "the prompt holds half a surrogate, which is no text")
                continue
            conversation = OpenConversation(prompt, self.store.turns(name))
            if conversation.ended_early is not None:
                self._skip(name, conversation.ended_early)
            elif conversation.is_finished:
                self.report.already_there += 1
                self._progress.update()
            else:
                self._asked[name] = prompt
                yield conversation

    def take(self, outcome: FinishedTurn | FailedTurn) -> None:
        """Keep a turn, and count its prompt where it was the last."""
        prompt = self._asked[outcome.id]
        if isinstance(outcome, FailedTurn):
            del self._asked[outcome.id]
            row = SkippedRow(outcome.id, f"turn {outcome.turn + 1}: {outcome.reason}")
            rows = self.report.skipped if outcome.is_final else self.report.failed
            rows.append(row)
            self._progress.update()
            return
        is_new = self.store.add(prompt, outcome)
        assert is_new, "a turn that is there is not asked again"
        self.report.count_turn(outcome)
        turns = len(prompt["turns"])
        ended_early = early_end(outcome, turns)
        if ended_early is not None:
            del self._asked[outcome.id]
            self._skip(outcome.id, ended_early)
        elif outcome.turn == turns - 1:
            del self._asked[outcome.id]
            self.report.finished += 1
            self._progress.update()
        self._show_speed()

    def close(self) -> None:
        """Stop the clock."""
        self.report.seconds = time.perf_counter() - self._started
        self._progress.close()

    def _skip(self, name: str, reason: str) -> None:
        """Count a prompt that nothing comes of."""
        self.report.skipped.append(SkippedRow(name, reason))
        self._progress.update()

    def _show_speed(self) -> None:
        """Show the tokens of all servers a second."""
        seconds = time.perf_counter() - self._started
        speed = self.report.sampled_tokens / seconds
        # tqdm decides itself when it draws.
        self._progress.set_postfix_str(f"{speed:.0f} tokens/s", refresh=False)


async def _sync_again_and_again(store: TurnStore) -> None:
    """Keep what is committed no further from the disk than `SYNC_S`."""
    while True:
        await asyncio.sleep(SYNC_S)
        store.sync()


def _check_same_target(answerer: Answerer, store: TurnStore) -> None:
    """Refuse to add to the answers of another target."""
    found = store.model()
    if found not in (None, answerer.model):
        raise ValueError(
            f"{store.path} holds answers of the target {found!r}, and {answerer.model!r} would "
            "answer now; choose another folder"
        )


def _check_same_question(prompt: Prompt, stored: Prompt | None) -> None:
    """Refuse a prompt whose id stands for another question in the store."""
    if stored is None:
        return
    is_same = stored["turns"] == prompt["turns"] and stored.get("system") == prompt.get("system")
    if not is_same:
        raise ValueError(
            f"the folder holds an answer to another prompt with the id {prompt['id']!r}; give "
            "changed prompts new ids or choose another folder"
        )


def _is_writable(prompt: Prompt) -> bool:
    """Whether every text of a prompt, its id included, can be written as UTF-8."""
    return is_writable(json.dumps(prompt, ensure_ascii=False))


def _check_no_loop() -> None:
    """Refuse to run inside an event loop, as in a notebook, where asyncio starts no second one."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    raise ValueError(
        "an event loop runs here already; use `await collect_answers(answerer, prompts, store)`"
    )


def _manifest(settings: ServingSettings, servers: Sequence[str]) -> dict[str, Any]:
    """What makes the folder; `SETTINGS` of it must not change."""
    return {
        "step": "served responses",
        "target": settings.model,
        "model": settings.model,
        "max_new_tokens": settings.max_new_tokens,
        "temperature": settings.temperature,
        "seed": settings.seed,
        "request_fields": dict(settings.request_fields),
        "servers": list(servers),
        "versions": library_versions(("eagle_hf", "aiohttp", "stamina")),
    }
