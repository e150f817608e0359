"""What one run of answers did, every prompt counted once."""

from dataclasses import asdict, dataclass, field

from eagle_hf.data.answers.turns import FinishedTurn
from eagle_hf.data.examples.turns import MISSING, RECOVERED
from eagle_hf.data.rows import SkippedRow, first_reasons


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
        sampled_tokens: tokens of the answers, end-of-turn tokens included, as far as the servers
            count them.
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

    def counts(self) -> dict[str, float]:
        """All numbers by their names, for a metrics file."""
        counts = asdict(self)
        counts["skipped"] = len(self.skipped)
        counts["failed"] = len(self.failed)
        return counts

    def check_useful(self) -> None:
        """Refuse a run from which nothing came: its prompts or settings are wrong.

        Raises:
            NothingAnswered: a ValueError that names the first reasons.
        """
        if self.finished or self.already_there:
            return
        reasons = first_reasons(self.failed + self.skipped, "")
        raise NothingAnswered(
            f"none of {self.prompts} prompts got a response ({reasons}); fix the prompts, the "
            "settings or the servers",
            self,
        )


class NothingAnswered(ValueError):
    """A run that answered nothing, where nothing was answered before.

    Args:
        message: says why.
        report: of the run.
    """

    def __init__(self, message: str, report: AnswerReport):
        super().__init__(message)
        self.report = report
