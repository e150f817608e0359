"""What forwards cost on a machine: measured tables, looked up between their points.

T_V(n; B, S): seconds of a target forward over n tokens in each of B rows that hold S tokens.
T_D(w; B, S): of a drafter's forward over w. Real tables are not convex, for kernels switch with the
shape. So nothing here fits a curve.
"""

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy

# A table holds for these facts and no others.
IDENTITY = (
    "target_fingerprint",
    "drafter_fingerprint",
    "dtype",
    "drafter_dtype",
    "device",
    "threads",
    "compiled",
)
# What tables of earlier releases do not say.
UNSAID = {"compiled": False}
# Facts as tables of eagle_hf 0.1 call them.
FORMER_NAMES = {
    "target_sha256": "target_fingerprint",
    "drafter_sha256": "drafter_fingerprint",
}
GRIDS = ("batches", "lengths", "tokens", "widths")


@dataclass(frozen=True)
class Cell:
    """The costs at one batch size and context length, in seconds.

    Attributes:
        target: [N]; entry n is for n + 1 tokens a row.
        draft: [W]; entry w is for w + 1 nodes a row.
        overhead: of a round, outside the forwards.
    """

    target: numpy.ndarray
    draft: numpy.ndarray
    overhead: float = 0.0

    @property
    def rounds(self) -> numpy.ndarray:
        """Seconds [N] of a round without its draft forwards, by the drafts read.

        Entry 0 is plain decoding.
        """
        is_drafted = numpy.arange(len(self.target)) > 0
        return self.target + self.overhead * is_drafted

    def draft_seconds(self, width: int) -> float:
        """Seconds of a draft forward over `width` nodes a row.

        Beyond the widest measured one they grow in proportion.
        """
        if width <= len(self.draft):
            return float(self.draft[width - 1])
        return float(self.draft[-1]) * width / len(self.draft)

    def round_seconds(self, nodes: int, widths: Sequence[int]) -> float:
        """Seconds of a round.

        Args:
            nodes: drafts per row that the target read.
            widths: nodes per row of each of the drafter's forwards.
        """
        if nodes >= len(self.target):
            raise ValueError(
                f"a tree of {nodes} nodes needs the cost of {nodes + 1} tokens; "
                f"{len(self.target)} were measured at most"
            )
        drafting = sum(map(self.draft_seconds, widths))
        return float(self.target[nodes]) + drafting + (self.overhead if widths else 0.0)


@dataclass(frozen=True)
class CostTable:
    """Seconds by batch, length and tokens, each grid ascending.

    Attributes:
        batches, lengths, tokens, widths: the grids.
        target: target[b][s][n], for batches[b] rows of lengths[s] tokens reading tokens[n] each.
        draft: draft[b][s][w], for drafting widths[w] nodes each.
        overhead: overhead[b], of a round outside the forwards.
        facts: what was measured and where, see IDENTITY.
    """

    batches: tuple[int, ...]
    lengths: tuple[int, ...]
    tokens: tuple[int, ...]
    widths: tuple[int, ...]
    target: tuple
    draft: tuple
    overhead: tuple[float, ...]
    facts: dict

    def __post_init__(self):
        for name in GRIDS:
            self._check_grid(name)
        self._check_seconds("target", len(self.tokens))
        self._check_seconds("draft", len(self.widths))
        begins_at_one = self.tokens[0] == 1 and self.widths[0] == 1
        if len(self.overhead) != len(self.batches) or not begins_at_one:
            raise ValueError(
                "a cost table needs an overhead per batch size, and the costs of one token and of "
                "one node"
            )

    def _check_grid(self, name: str) -> None:
        grid = getattr(self, name)
        least = 0 if name == "lengths" else 1
        is_ascending = bool(grid) and list(grid) == sorted(set(grid))
        if not is_ascending or grid[0] < least:
            raise ValueError(f"{name} of a cost table are {grid!r}; needed are ascending counts")

    def _check_seconds(self, name: str, columns: int) -> None:
        values = numpy.asarray(getattr(self, name), dtype=float)
        shape = (len(self.batches), len(self.lengths), columns)
        is_positive = numpy.isfinite(values) & (values > 0)
        if values.shape != shape or not is_positive.all():
            raise ValueError(
                f"{name} of the cost table has the shape {values.shape}; needed are positive "
                f"seconds {shape}"
            )

    def at(self, batch: int, length: int) -> Cell:
        """The costs of `batch` rows of `length` tokens.

        Straight lines between measured points, the nearest one beyond them.
        """
        rows = _weights(self.batches, batch)
        columns = _weights(self.lengths, length)
        target = _mean(self.target, rows, columns)
        draft = _mean(self.draft, rows, columns)
        counts = numpy.arange(1, self.tokens[-1] + 1)
        widths = numpy.arange(1, self.widths[-1] + 1)
        overhead = sum(weight * self.overhead[index] for index, weight in rows)
        return Cell(
            target=numpy.interp(counts, self.tokens, target),
            draft=numpy.interp(widths, self.widths, draft),
            overhead=overhead,
        )

    def check(self, facts: dict) -> None:
        """Raise a ValueError naming the first of IDENTITY in which `facts` differ."""
        for name in IDENTITY:
            measured = self.facts.get(name, UNSAID.get(name))
            if measured != facts.get(name, UNSAID.get(name)):
                raise ValueError(
                    f"the cost table was measured with {name} {measured!r}, this is "
                    f"{facts.get(name)!r}; measure here: eagle-hf plan"
                )

    def save(self, path: str | Path) -> None:
        """Write it as JSON; the file appears whole or not at all."""
        scratch = Path(f"{path}.{os.getpid()}.tmp")  # another process may measure the same
        scratch.write_text(json.dumps(asdict(self), indent=1) + "\n")
        scratch.rename(path)

    @classmethod
    def from_saved(cls, saved: dict) -> "CostTable":
        """The table of a JSON object; one of an older release has other names for its facts."""
        facts = {FORMER_NAMES.get(name, name): value for name, value in saved["facts"].items()}
        others = {name: value for name, value in saved.items() if name != "facts"}
        return cls(**others, facts=facts)

    @classmethod
    def load(cls, path: str | Path) -> "CostTable":
        """Inverse of save; ValueError for anything else."""
        try:
            return cls.from_saved(json.loads(Path(path).read_text()))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ValueError(
                f"{path} is no cost table ({error}); measure one: eagle-hf plan"
            ) from error


def _weights(grid: Sequence[int], value: int) -> list[tuple[int, float]]:
    """(index, weight) of the grid's points around a value."""
    after = int(numpy.searchsorted(grid, value))
    if after == len(grid):
        return [(len(grid) - 1, 1.0)]
    if after == 0 or grid[after] == value:
        return [(after, 1.0)]
    share = (value - grid[after - 1]) / (grid[after] - grid[after - 1])
    return [(after - 1, 1 - share), (after, share)]


def _mean(
    table: tuple, rows: list[tuple[int, float]], columns: list[tuple[int, float]]
) -> numpy.ndarray:
    """The weighted mean of a table's cells [N]."""
    mean = numpy.zeros(len(table[0][0]))
    for row, row_weight in rows:
        for column, column_weight in columns:
            mean = mean + row_weight * column_weight * numpy.asarray(table[row][column], float)
    return mean
