"""What an engine accepted, against what is accepted here, and the verdict on it."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

# Of what is accepted here. A head learnt by heart is accepted whole where it is read as it was
# trained: 36 of 36 drafts in float32 and with the head in bfloat16 (SmolLM2). The mildest
# misreading, a flag that spares the first draft of every round, leaves 24 of 36.
LEARNT_SHARE = 0.9
SAME_SHARE = 0.05  # of the rounds may differ: float32 gives the same ones, fewer bits few others
BAD_TAU = 1.2  # fewer than one draft accepted in five rounds: no engine gains from that
VERDICTS = {
    "ok": "the export is right and the head is as good in the engine as here",
    "bad head": "the export is right, the engine reads it as it was trained, and the head itself "
    "drafts badly here as well: train it further or on other texts",
    "broken export": "what was learnt by heart is not accepted: the folder, or the way the engine "
    "reads it, is another head than the one that was trained",
    "another text": "the engine writes another text than the target here: other weights, dtype or "
    "tokens, so nothing can be said of the head",
    "differs": "the engine accepts another number of drafts than this package on the same texts",
}


@dataclass(frozen=True)
class Row:
    """One answer of the engine.

    Rounds are compared, because they mean the same everywhere: vLLM also counts drafts as accepted
    that lie beyond the end of an answer.

    Args:
        tokens: Tokens of the answer.
        rounds: Rounds in which the engine wrote it, without the prefill that wrote the first token.
        rounds_here: Rounds of this package's chain along the same text.
        counted: Accepted drafts, as the engine counts them.
        same_text: Whether the target here writes this text.
    """

    tokens: int
    rounds: int
    rounds_here: int
    counted: int
    same_text: bool

    @property
    def accepted(self) -> int:
        """Drafts of the answer that the engine accepted."""
        return self.tokens - 1 - self.rounds

    @property
    def accepted_here(self) -> int:
        """Drafts of the answer that are accepted here."""
        return self.tokens - 1 - self.rounds_here


@dataclass(frozen=True)
class Comparison:
    """Answers of an engine to some prompts.

    Args:
        head: Which head was served.
        rows: The answers.
        generate_tau: Tau of `generate` on the same prompts, None where it was not asked.
        reasons: Why the engine accepts another number of drafts, likeliest first.
    """

    head: str
    rows: tuple[Row, ...]
    generate_tau: float | None = None
    reasons: tuple[str, ...] = ()

    @property
    def engine_tau(self) -> float:
        """Tokens a round in the engine."""
        return tau(self.tokens, sum(row.rounds for row in self.rows))

    @property
    def replayed_tau(self) -> float:
        """Tokens a round of this package's chain, along the engine's texts."""
        return tau(self.tokens, sum(row.rounds_here for row in self.rows))

    @property
    def tokens(self) -> int:
        """Tokens that rounds wrote."""
        return sum(row.tokens - 1 for row in self.rows)

    @property
    def accepted(self) -> int:
        """Drafts that the engine accepted."""
        return sum(row.accepted for row in self.rows)

    @property
    def accepted_here(self) -> int:
        """Drafts accepted here along the same texts."""
        return sum(row.accepted_here for row in self.rows)

    @property
    def same_texts(self) -> int:
        """How many texts the target here writes, too."""
        return sum(row.same_text for row in self.rows)

    @property
    def with_same_text(self) -> "Comparison":
        """The answers that the target here gives, too."""
        return replace(self, rows=tuple(row for row in self.rows if row.same_text))

    @property
    def is_same(self) -> bool:
        """Whether engine and package accept alike, answer by answer."""
        return self.distance([row.rounds_here for row in self.rows]) <= self.allowed

    @property
    def allowed(self) -> float:
        """By how many rounds both may differ in all."""
        return max(1.0, SAME_SHARE * sum(row.rounds for row in self.rows))

    @property
    def learnt_line(self) -> str:
        """What became of a conversation that was learnt by heart."""
        usable = self.with_same_text
        return (
            f"learnt by heart: {usable.accepted} of {usable.accepted_here} drafts accepted "
            f"({LEARNT_SHARE:.0%} are wanted), {len(usable.rows)} of {len(self.rows)} texts "
            "written as here"
        )

    def distance(self, rounds: Sequence[int]) -> int:
        """By how many rounds the engine's answers differ from these numbers, one an answer."""
        pairs = zip(self.rows, rounds, strict=True)
        return sum(abs(row.rounds - other) for row, other in pairs)


def tau(tokens: int, rounds: int) -> float:
    """Tokens a round; 1 where nothing was written."""
    return tokens / rounds if rounds else 1.0


@dataclass(frozen=True)
class Verdict:
    """What the gate says.

    Args:
        engine: Name of the engine.
        learnt: The head that was learnt by heart, None for a server that already ran.
        own: The user's head.
        notes: What else was seen, such as another chat template.
        facts: How it was run.
    """

    engine: str
    learnt: Comparison | None
    own: Comparison | None
    notes: tuple[str, ...] = ()
    facts: dict[str, object] = field(default_factory=dict)

    @property
    def word(self) -> str:
        """One of VERDICTS."""
        if self.learnt is not None:
            if self.learnt.same_texts * 2 < len(self.learnt.rows):
                return "another text"
            usable = self.learnt.with_same_text
            if usable.accepted < LEARNT_SHARE * usable.accepted_here:
                return "broken export"
        if self.own is None:
            return "ok"
        if not self.own.is_same:
            return "differs"
        return "bad head" if self.own.replayed_tau < BAD_TAU else "ok"

    @property
    def failed(self) -> bool:
        """Whether something is wrong."""
        return self.word != "ok"

    def text(self) -> str:
        """The verdict, the figures behind it, and the reasons."""
        lines = [f"{self.engine}: {self.word}", f"  {VERDICTS[self.word]}"]
        if self.learnt is not None:
            lines.append(f"  {self.learnt.learnt_line}")
            lines += _reason_lines(self.learnt)
        if self.own is not None:
            generated = ""
            if self.own.generate_tau is not None:
                generated = f", {self.own.generate_tau:.2f} through generate"
            lines.append(
                f"  this head: tau {self.own.engine_tau:.2f} in the engine and "
                f"{self.own.replayed_tau:.2f} here on the same texts{generated}; "
                f"{self.own.accepted} and {self.own.accepted_here} drafts accepted, "
                f"{self.own.same_texts} of {len(self.own.rows)} texts written as here"
            )
            lines += _reason_lines(self.own)
        lines += [f"  note: {note}" for note in self.notes]
        return "\n".join(lines)


def _reason_lines(comparison: Comparison) -> list[str]:
    """The reasons, a line each."""
    return [f"    because: {reason}" for reason in comparison.reasons]
