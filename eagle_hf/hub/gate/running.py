"""The gate: a head learnt by heart and the user's own, served by an engine and compared."""

import json
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from eagle_hf.data.prompts.suites import DEFAULT, first_turn_ids, load_suite
from eagle_hf.head.modeling import Eagle3DraftHead
from eagle_hf.hub.engines import SERVER_OF_KEY
from eagle_hf.hub.gate.by_heart import Lesson, learn_by_heart
from eagle_hf.hub.gate.client import EngineClient, EngineError
from eagle_hf.hub.gate.conversation import Conversation, choose_conversation, question_ids
from eagle_hf.hub.gate.diagnosing import Asked, compare, find_reasons
from eagle_hf.hub.gate.drafting import generate_chain
from eagle_hf.hub.gate.environment import Environment
from eagle_hf.hub.gate.exported import compare_with_source, export
from eagle_hf.hub.gate.launching import served
from eagle_hf.hub.gate.measured import LEARNT_SHARE, Comparison, Verdict, tau
from eagle_hf.target import default_device, execution_device, load_target
from eagle_hf.target.gguf import resolve

LEARNT = "learnt by heart"
OWN = "this head"
RECORD = "gate.json"


@dataclass(frozen=True, kw_only=True)
class GateSettings:
    """How much is asked.

    Args:
        depth: Drafts of a chain, as the engine is started with.
        new_tokens: Tokens of each answer at most.
        categories: Bundled categories, or .jsonl files of prompts.
        per_category: Prompts of each.
        learnt_tokens: Tokens of the answer that is learnt by heart, at most.
        dtype: What is computed in, here and in the engine.
        export_with: The command of another exporter; None for this package's.

    Raises:
        ValueError: A number is not positive.
    """

    depth: int = 3
    new_tokens: int = 64
    categories: Sequence[str] = DEFAULT
    per_category: int = 2
    learnt_tokens: int = 64
    dtype: str = "float32"
    export_with: str | None = None

    def __post_init__(self) -> None:
        for name in ("depth", "new_tokens", "per_category", "learnt_tokens"):
            value = getattr(self, name)
            if value < 1:
                raise ValueError(f"{name} is {value}; give at least 1")


class Serve(Protocol):
    """What serves a target with an exported head while a block runs, and yields its address."""

    def __call__(self, target: Path, head: Path, dtype: str) -> AbstractContextManager[str]: ...


class Gate:
    """A target and a head, opened, and what is asked of an engine about them.

    Args:
        head: Folder or hub id of the user's head.
        target: Hub id, folder, .gguf file, or "smollm2".
        engine: "vllm", "llamacpp" or "sglang".
        settings: How much is asked.

    Raises:
        ValueError, OSError: One cannot be opened.
    """

    def __init__(self, head: str, target: str, engine: str, settings: GateSettings) -> None:
        self.settings = settings
        self.engine = engine
        self.target_folder = Path(_local_folder(target))
        self.target, self.tokenizer = load_target(
            target, dtype=settings.dtype, device=default_device()
        )
        opened = Eagle3DraftHead.from_pretrained(head, dtype=self.target.dtype)
        self.head = opened.to(execution_device(self.target)).eval()

    def learn(self) -> Lesson:
        """A head with the settings of the user's, which knows one conversation by heart."""
        settings = self.settings
        conversation = choose_conversation(self.target, self.tokenizer, settings.learnt_tokens)
        return learn_by_heart(self.target, self.head, conversation, settings.depth)

    def run(self, serve: Serve, work: Path, lesson: Lesson | None = None) -> Verdict:
        """Learn by heart, export, serve and compare; then the same with the user's own head.

        Args:
            serve: Starts the engine.
            work: Folder for exported heads, logs and `RECORD`.
            lesson: What `learn` returned; default: it is learnt now.

        Returns:
            The verdict.

        Raises:
            EngineError: The engine does not start, stops, or says something else.
            ValueError: The head cannot be learnt or exported.
        """
        # 1) a head of which all must be accepted
        if lesson is None:
            lesson = self.learn()
        learnt_head = lesson.head.to(self.target.dtype)
        pieces = cut_in_pieces(lesson.conversation, self.settings.depth)
        folder = self._export(learnt_head, work / "learnt")
        with serve(self.target_folder, folder, self.settings.dtype) as url:
            client = EngineClient(self.engine, url)
            notes = self._notes(client)
            asked = _ask(client, pieces)
        learnt = self._compare(LEARNT, learnt_head, asked, folder)
        check_known(learnt, self.settings)
        # 2) the user's own head
        try:
            folder = self._export(self.head, work / "own")
            prompts = self._prompts()
            with serve(self.target_folder, folder, self.settings.dtype) as url:
                own = self._compare_own(EngineClient(self.engine, url), prompts, folder)
        except EngineError as error:  # what was measured is not lost
            raise EngineError(f"{error}\nbefore that, {learnt.learnt_line}") from error
        facts = {"steps": lesson.steps, "seconds": lesson.seconds}
        return self._verdict(work, learnt, own, notes, facts)

    def compare_running(self, client: EngineClient, work: Path) -> Verdict:
        """Compare a server that runs already, with the user's head in it.

        Args:
            client: The server.
            work: Folder for `RECORD`.

        Returns:
            The verdict, without anything learnt by heart.
        """
        notes = self._notes(client)
        own = self._compare_own(client, self._prompts(), None)
        return self._verdict(work, None, own, notes, {})

    def _export(self, head: Eagle3DraftHead, out: Path) -> Path:
        """The folder that the engine loads."""
        settings = self.settings
        target_folder = str(self.target_folder)
        export(head, out, self.engine, self.target, target_folder, settings.export_with)
        return out

    def _prompts(self) -> list[list[int]]:
        """Token ids of each prompt."""
        suite = load_suite(self.settings.categories, self.settings.per_category)
        return [first_turn_ids(self.tokenizer, row)["input_ids"][0].tolist() for row in suite]

    def _compare_own(
        self, client: EngineClient, prompts: list[list[int]], folder: Path | None
    ) -> Comparison:
        """The user's head on the suite, and through `generate`."""
        new_tokens = self.settings.new_tokens
        texts = []
        tokens = 0
        rounds = 0
        for prompt in prompts:
            text, run = generate_chain(
                self.target, self.head, prompt, new_tokens, self.settings.depth
            )
            texts.append(text)
            tokens += len(text) - 1
            rounds += run.rounds
        asked = _ask(client, list(zip(prompts, texts, strict=True)), new_tokens)
        compared = self._compare(OWN, self.head, asked, folder)
        return replace(compared, generate_tau=tau(tokens, rounds))

    def _compare(
        self, name: str, head: Eagle3DraftHead, asked: Asked, folder: Path | None
    ) -> Comparison:
        """The comparison, with reasons where both sides differ."""
        depth = self.settings.depth
        compared = compare(name, self.target, head, asked, depth)
        if compared.is_same:
            return compared
        # A folder that holds another head is the reason; else it is how the engine reads it.
        reasons = []
        if folder is not None:
            engine_name = SERVER_OF_KEY[self.engine].name
            reasons = compare_with_source(
                folder, head, self.target, str(self.target_folder), engine_name
            )
        if not reasons:
            reasons = find_reasons(self.target, head, asked, compared, depth)
        return replace(compared, reasons=tuple(reasons))

    def _notes(self, client: EngineClient) -> list[str]:
        """Whether the server's chat template is the tokenizer's here."""
        question = "Hello"
        ours = question_ids(self.tokenizer, question)
        theirs = client.render([{"role": "user", "content": question}])
        if theirs is None or theirs == ours:
            return []
        return [
            f"the server's chat template is another: it makes {len(theirs)} tokens of a message "
            f"that has {len(ours)} here; the figures above do not depend on it, a chat's do"
        ]

    def _verdict(
        self,
        work: Path,
        learnt: Comparison | None,
        own: Comparison | None,
        notes: list[str],
        facts: dict[str, Any],
    ) -> Verdict:
        """The verdict, which is written down too."""
        if own is not None and own.same_texts < len(own.rows):
            notes = [*notes, _describe_texts(own, self.settings.dtype)]
        name = SERVER_OF_KEY[self.engine].full_name
        verdict = Verdict(name, learnt, own, tuple(notes), facts)
        record = {"verdict": verdict.word, "settings": asdict(self.settings), **asdict(verdict)}
        (work / RECORD).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        return verdict


def check_known(learnt: Comparison, settings: GateSettings) -> None:
    """Raise a ValueError for a head that does not know its conversation, even here."""
    usable = learnt.with_same_text
    possible = usable.tokens * settings.depth / (settings.depth + 1)
    if usable.accepted_here < LEARNT_SHARE * possible:
        raise ValueError(
            f"the head that learnt by heart has only {usable.accepted_here} of {possible:.0f} "
            f"drafts accepted here, in {settings.dtype}, so it tells nothing of an engine; "
            "give another dtype: --dtype float32"
        )


def launcher(environment: Environment, depth: int, work: Path) -> Serve:
    """What starts an engine from its environment, with its files in a folder."""

    def serve(target: Path, head: Path, dtype: str) -> AbstractContextManager[str]:
        return served(environment, target, head, depth, dtype, work)

    return serve


def cut_in_pieces(conversation: Conversation, depth: int) -> list[tuple[list[int], list[int]]]:
    """(prompt, answer) of the pieces in which a conversation is asked for.

    An engine in another dtype may leave the text at a near tie; then one piece is lost, and not all
    that follows. A piece is one token and three whole rounds long, so that an engine that accepts
    all of it drafts nothing beyond its end.
    """
    length = 1 + 3 * (depth + 1)
    answer = conversation.answer
    pieces = []
    for start in range(0, len(answer) - length + 1, length):
        prompt = conversation.prompt + answer[:start]
        pieces.append((prompt, answer[start : start + length]))
    if not pieces:
        raise ValueError(
            f"chains of {depth} drafts need an answer of {length} tokens, and the one that was "
            f"learnt has {len(answer)}; give fewer drafts"
        )
    return pieces


def _ask(
    client: EngineClient,
    pairs: Sequence[tuple[list[int], list[int]]],
    new_tokens: int | None = None,
) -> Asked:
    """Ask for answers, as long as the expected ones unless a length is given."""
    answers = []
    for prompt, expected in pairs:
        answers.append(client.answer(prompt, new_tokens or len(expected)))
    return Asked([prompt for prompt, _ in pairs], answers, [expected for _, expected in pairs])


def _describe_texts(own: Comparison, dtype: str) -> str:
    """What it means that the texts differ."""
    return (
        f"{len(own.rows) - own.same_texts} of {len(own.rows)} texts are not those of the target "
        f"here, in {dtype}: another dtype, other kernels or another quantisation; tau through "
        "generate is of other texts than the engine's"
    )


def _local_folder(target: str) -> str:
    """The folder of a target: a GGUF file's copy, and what was downloaded of a hub id."""
    resolved = resolve(target)
    if Path(resolved).is_dir():
        return str(Path(resolved).resolve())
    from huggingface_hub import snapshot_download

    return snapshot_download(resolved)
