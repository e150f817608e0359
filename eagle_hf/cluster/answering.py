"""Answers from a cluster: an `Answerer` whose turns come from workers.

    driver                              worker
    collect_answers(RayAnswerer)        collect_answers(TargetAnswerer or ServedAnswerer)
      turns.sqlite in OUTPUT    <----     PartStore on its node, a part on shared storage

The driver asks through the same door as everybody, so prompts are counted and stored as on one
machine. The parts are for what the driver has not heard yet when a node, or the driver, dies.
"""

import asyncio
import tempfile
import uuid
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import count, islice
from typing import Any

from eagle_hf.cluster.parts import PartFolder, PartStore, take_turns
from eagle_hf.cluster.stages import StageRun, Workers, ask_one_worker
from eagle_hf.data import Prompt, TurnStore, collect_answers
from eagle_hf.data.answers import Answerer, FailedTurn, FinishedTurn, OpenConversation

OpenAnswerer = Callable[[], Answerer]
Outcome = FinishedTurn | FailedTurn


@dataclass(frozen=True)
class AnswerUnit:
    """Prompts that one worker answers.

    Attributes:
        name: of the unit, no other one's in any run.
        prompts: that are left; empty to ask only who answers.
        known: finished turns of these prompts.
        model: whose answers are wanted; None: anybody's.
    """

    name: str
    prompts: list[Prompt]
    known: list[FinishedTurn]
    model: str | None


@dataclass(frozen=True)
class AnsweredUnit:
    """What a worker has to say about a unit.

    Attributes:
        name: of the unit.
        model: what the target is called there.
        outcomes: finished and failed turns that the driver does not know.
    """

    name: str
    model: str
    outcomes: list[Outcome]


class AnswerStage:
    """Answers units; a `Stage`.

    Args:
        open_answerer: opens the target or a client of the servers.
        parts: where turns are kept until the driver has them.
    """

    def __init__(self, open_answerer: OpenAnswerer, parts: str):
        self.answerer = open_answerer()
        self.parts = PartFolder(parts)

    def __call__(self, unit: AnswerUnit) -> AnsweredUnit:
        """Answer a unit.

        Returns:
            What is new of it.

        Raises:
            ValueError: another target answers here, or the shared storage cannot be written.
        """
        model = self.answerer.model
        if unit.model not in (None, model):
            raise ValueError(
                f"a worker has the target {model!r} and others have {unit.model!r}; give all nodes "
                "the same files"
            )
        outcomes: list[Outcome] = []
        if unit.prompts:
            outcomes = asyncio.run(self._answer(unit))
        return AnsweredUnit(unit.name, model, outcomes)

    async def _answer(self, unit: AnswerUnit) -> list[Outcome]:
        """Answer the prompts of a unit from where the driver, or another worker, has left it."""
        recorder = _Recorder(self.answerer)
        with tempfile.TemporaryDirectory() as folder:
            with TurnStore(folder) as store:
                prompts = {prompt["id"]: prompt for prompt in unit.prompts}
                for turn in unit.known:
                    store.add(prompts[turn.id], turn)
                take_turns(store, self.parts.turns(unit.name), self.answerer.model)
            with PartStore(folder, self.parts, unit.name) as store:
                await collect_answers(recorder, unit.prompts, store)
                return _news(unit, store) + recorder.failed


class _Recorder:
    """An `Answerer` that remembers the turns that failed; a store keeps the others."""

    def __init__(self, answerer: Answerer):
        self._answerer = answerer
        self.failed: list[Outcome] = []

    @property
    def model(self) -> str:
        """As the answerer calls the target."""
        return self._answerer.model

    async def answer(self, conversations: Iterable[OpenConversation]) -> AsyncGenerator[Outcome]:
        """Pass everything on."""
        async for outcome in self._answerer.answer(conversations):
            if isinstance(outcome, FailedTurn):
                self.failed.append(outcome)
            yield outcome


def ask_model(ray: Any, open_answerer: OpenAnswerer, workers: Workers, parts: str) -> str:
    """Let one worker open everything, before anything is computed.

    Args:
        ray, open_answerer, workers, parts: as in `RayAnswerer`.

    Returns:
        What the workers call the target.

    Raises:
        ValueError: what a worker refuses: a target that cannot be opened, servers that do not list
            it, a template that cannot be rendered.
    """
    nothing = AnswerUnit("nobody", [], [], None)
    answered = ask_one_worker(ray, _StageOpener(open_answerer, parts), workers, nothing)
    return answered.model


class RayAnswerer:
    """Answers conversations on the workers of a cluster; an `Answerer`.

    Args:
        ray: the module, connected.
        open_answerer: opens the target or a client of the servers, on a worker.
        workers: how many, and what each takes.
        parts: folder on shared storage, or what fsspec opens, that no other run uses.
        model: what the workers call the target, see `ask_model`.
        store: where the turns of earlier runs are.
        unit_prompts: prompts that a worker is given at once.
    """

    def __init__(
        self,
        ray: Any,
        open_answerer: OpenAnswerer,
        *,
        workers: Workers,
        parts: str,
        model: str,
        store: TurnStore,
        unit_prompts: int,
    ):
        self._ray = ray
        self._open_stage = _StageOpener(open_answerer, parts)
        self._workers = workers
        self._parts = PartFolder(parts)
        self._model = model
        self._store = store
        self._unit_prompts = unit_prompts
        self._run = uuid.uuid4().hex[:8]

    @property
    def model(self) -> str:
        """What the workers call the target."""
        return self._model

    async def answer(self, conversations: Iterable[OpenConversation]) -> AsyncGenerator[Outcome]:
        """Answer every turn that is left; see `Answerer`.

        Args:
            conversations: taken all at the start, because Ray Data plans them all.

        Yields:
            The turns of a unit as soon as the unit is finished.
        """
        # Here and not in a thread: the store belongs to this one.
        units = self._units(iter(conversations))
        run = StageRun(self._ray, self._open_stage, self._workers, units)
        try:
            while run.left:
                # In a thread, so that what is kept reaches the disk meanwhile.
                unit = await asyncio.to_thread(run.next_result)
                for outcome in unit.outcomes:
                    yield outcome
                # Whoever asks has kept them; on the disk itself they need no parts any more.
                self._store.sync()
                self._parts.remove(unit.name)
        finally:
            run.close()

    def _units(self, conversations: Iterator[OpenConversation]) -> Iterator[AnswerUnit]:
        """The conversations that are left, cut into units."""
        for number in count():
            batch = list(islice(conversations, self._unit_prompts))
            if not batch:
                return
            known = []
            for conversation in batch:
                if conversation.turn:
                    known += self._store.turns(conversation.prompt["id"])
            prompts = [conversation.prompt for conversation in batch]
            yield AnswerUnit(f"{self._run}-{number:06d}", prompts, known, self._model)


@dataclass(frozen=True)
class _StageOpener:
    """Opens an `AnswerStage`; it travels to the workers."""

    open_answerer: OpenAnswerer
    parts: str

    def __call__(self) -> AnswerStage:
        return AnswerStage(self.open_answerer, self.parts)


def _news(unit: AnswerUnit, store: TurnStore) -> list[Outcome]:
    """The turns of a unit that the driver does not know."""
    known = {(turn.id, turn.turn) for turn in unit.known}
    news: list[Outcome] = []
    for prompt in unit.prompts:
        for turn in store.turns(prompt["id"]):
            if (turn.id, turn.turn) not in known:
                news.append(turn)
    return news
