"""Prompts go in, finished turns go to disk, and every prompt is counted once.

folder/manifest.json         which target answers and how; a rerun must agree with it
folder/turns.sqlite          every finished turn (see store.py)
folder/conversations.jsonl   every finished conversation (see conversation_file.py)

A killed run loses no finished turn. The next one asks for what is missing, which is at most what
was in flight and what failed.
"""

import asyncio
import json
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from eagle_hf.data.answers.conversation_file import ConversationFile
from eagle_hf.data.answers.report import AnswerReport
from eagle_hf.data.answers.store import TurnStore
from eagle_hf.data.answers.turns import (
    Answerer,
    FailedTurn,
    FinishedTurn,
    OpenConversation,
    early_end,
)
from eagle_hf.data.manifest import check_manifest, only_one_run
from eagle_hf.data.reading.row_values import is_encodable
from eagle_hf.data.rows import Prompt, SkippedRow, check_prompts, question_of
from eagle_hf.data.templates.arguments import TemplateArguments

SYNC_S = 0.5  # between two writes to the disk itself, in seconds


async def answer_into_folder(
    answerer: Answerer,
    prompts: Sequence[Prompt],
    folder: Path,
    manifest: dict[str, Any],
    settings: Iterable[str],
) -> AnswerReport:
    """Let anything that answers fill a folder that has a manifest.

    Args:
        answerer: servers, the target in this process, or any other `Answerer`.
        prompts: user turns with distinct ids.
        folder: is made where it does not exist.
        manifest: of this run.
        settings: its fields that an old folder must have in common with it.

    Returns:
        What this run answered, skipped and failed to answer.

    Raises:
        ValueError: a folder made with other settings, another run writes to it, or no prompt got
            a response.
    """
    with only_one_run(folder):
        check_manifest(folder, manifest, settings)
        with TurnStore(folder) as store:
            report = await _collect(answerer, prompts, store)
    report.check_useful()
    return report


async def collect_answers(
    answerer: Answerer, prompts: Sequence[Prompt], store: TurnStore
) -> AnswerReport:
    """Let anything that answers go through prompts, and keep what it says.

    Args:
        answerer: servers, or any other `Answerer`.
        prompts: user turns with distinct ids.
        store: holds the turns of earlier runs, which are not asked again. Finished conversations
            are written to its folder too.

    Returns:
        What this run answered, skipped and failed to answer.

    Raises:
        ValueError: two prompts share an id, the store holds answers of another target, or to
            another prompt under one of the ids, or another run writes to its folder.
    """
    check_prompts(prompts)
    with only_one_run(store.path.parent):
        return await _collect(answerer, prompts, store)


async def _collect(answerer: Answerer, prompts: Sequence[Prompt], store: TurnStore) -> AnswerReport:
    """As `collect_answers`, in a folder that no other run writes to."""
    _check_same_target(answerer, store)
    for prompt in prompts:
        if _is_encodable(prompt):
            _check_same_question(prompt, store.prompt(prompt["id"]))
    with ConversationFile(store.path.parent) as file:
        for prompt in prompts:
            file.holds(prompt)  # refuses another question under its id
        collection = _Collection(prompts, store, file)
        syncing = asyncio.create_task(_sync_again_and_again(collection))
        try:
            async with aclosing(answerer.answer(collection.unfinished())) as outcomes:
                async for outcome in outcomes:
                    collection.take(outcome)
                    _check_syncing(syncing)
            _check_syncing(syncing)
        finally:
            syncing.cancel()
            collection.close()
            collection.sync()
    report = collection.report
    assert report.prompts == len(prompts), "every prompt is counted once"
    return report


class _Collection:
    """The prompts of one run and what has become of them."""

    def __init__(self, prompts: Sequence[Prompt], store: TurnStore, file: ConversationFile):
        self.prompts = prompts
        self.store = store
        self.file = file
        self.report = AnswerReport()
        self._started = time.perf_counter()
        self._asked: dict[str, Prompt] = {}  # that are being answered
        self._progress = tqdm(total=len(prompts), desc="responses", unit="prompt")

    def unfinished(self) -> Iterator[OpenConversation]:
        """The conversations that have turns left, each read from the store when it is needed."""
        for position, prompt in enumerate(self.prompts):
            name = prompt["id"]
            fault = _fault_of(prompt)
            if fault is not None:
                self._skip(name, fault)
                continue
            turns = self.store.turns(name)
            conversation = OpenConversation(prompt, turns, position)
            if conversation.ended_early is not None:
                self._skip(name, conversation.ended_early)
            elif conversation.is_finished:
                # A killed run may have kept the turn and not written the line.
                self.file.add(prompt, turns)
                self._count_old()
            elif self.file.holds(prompt):
                # Earlier versions had no store.
                self._count_old()
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
            self.file.add(prompt, self.store.turns(outcome.id))
            self.report.finished += 1
            self._progress.update()
        self._show_speed()

    def sync(self) -> None:
        """Write what is kept to the disk itself."""
        self.store.sync()
        self.file.sync()

    def close(self) -> None:
        """Stop the clock."""
        self.report.seconds = time.perf_counter() - self._started
        self._progress.close()

    def _count_old(self) -> None:
        """Count a prompt that an earlier run answered."""
        self.report.already_there += 1
        self._progress.update()

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


async def _sync_again_and_again(collection: _Collection) -> None:
    """Keep what is committed no further from the disk than `SYNC_S`."""
    while True:
        await asyncio.sleep(SYNC_S)
        collection.sync()


def _check_syncing(syncing: asyncio.Task[None]) -> None:
    """Raise what has ended the syncing, which goes on for ever where the disk is well."""
    if syncing.done():
        syncing.result()


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
    if question_of(stored) != question_of(prompt):
        raise ValueError(
            f"the folder holds an answer to another prompt with the id {prompt['id']!r}; give "
            "changed prompts new ids or choose another folder"
        )


def _fault_of(prompt: Prompt) -> str | None:
    """Why a prompt cannot be asked at all; None where it can."""
    if not _is_encodable(prompt):
        return "the prompt holds half a surrogate, which is no text"
    try:
        TemplateArguments().for_row(prompt)
    except ValueError as error:
        return str(error)
    return None


def _is_encodable(prompt: Prompt) -> bool:
    """Whether every text of a prompt, its id included, can be written as UTF-8."""
    return is_encodable(json.dumps(prompt, ensure_ascii=False))
