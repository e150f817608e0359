"""What forwards cost on a machine: measured tables, looked up between their points.

T_V(n; B, S): seconds of a target forward over n tokens in each of B rows that hold S tokens. T_D(w; B, S): of a drafter's
forward over w. Real tables are not convex, for kernels switch with the shape: nothing here fits a curve.
"""

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy

IDENTITY = (
    "target_sha256",
    "drafter_sha256",
    "dtype",
    "drafter_dtype",
    "device",
    "threads",
)  # a table holds for these and no others


@dataclass(frozen=True)
class Cell:
    """The costs at one batch size and context length, in seconds.

    target [N]: entry n is for n + 1 tokens a row. draft [W]: entry w is for w + 1 nodes a row. overhead: of a round, outside the forwards.
    """

    target: numpy.ndarray
    draft: numpy.ndarray
    overhead: float = 0.0

    @property
    def rounds(self) -> numpy.ndarray:
        """Seconds [N] of a round without its draft forwards, by the drafts read; entry 0 is plain decoding."""
        return self.target + self.overhead * (numpy.arange(len(self.target)) > 0)

    def draft_seconds(self, width: int) -> float:
        """Of a draft forward over `width` nodes a row; the widest measured one for wider levels, in proportion."""
        if width <= len(self.draft):
            return float(self.draft[width - 1])
        return float(self.draft[-1]) * width / len(self.draft)

    def round_seconds(self, nodes: int, widths: Sequence[int]) -> float:
        """Of a round that reads `nodes` drafts a row and ran draft forwards of these widths."""
        if nodes >= len(self.target):
            raise ValueError(
                f"a tree of {nodes} nodes needs the cost of {nodes + 1} tokens; {len(self.target)} were measured at most"
            )
        return (
            float(self.target[nodes])
            + sum(map(self.draft_seconds, widths))
            + (self.overhead if widths else 0.0)
        )


@dataclass(frozen=True)
class CostTable:
    """Seconds by batch, length and tokens, each grid ascending.

    target[b][s][n]: batches[b] rows of lengths[s] tokens reading tokens[n] each; draft[b][s][w]: drafting widths[w] nodes each;
    overhead[b]: seconds of a round outside the forwards. facts: what it was measured of and where, see IDENTITY.
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
        for name in ("batches", "lengths", "tokens", "widths"):
            grid = getattr(self, name)
            if (
                not grid
                or list(grid) != sorted(set(grid))
                or grid[0] < (0 if name == "lengths" else 1)
            ):
                raise ValueError(
                    f"{name} of a cost table are {grid!r}; needed are ascending counts"
                )
        cells = (len(self.batches), len(self.lengths))
        for name, last in (("target", len(self.tokens)), ("draft", len(self.widths))):
            values = numpy.asarray(getattr(self, name), dtype=float)
            if values.shape != (*cells, last) or not (numpy.isfinite(values) & (values > 0)).all():
                raise ValueError(
                    f"{name} of the cost table has the shape {values.shape}; needed are positive seconds {(*cells, last)}"
                )
        if len(self.overhead) != len(self.batches) or self.tokens[0] != 1 or self.widths[0] != 1:
            raise ValueError(
                "a cost table needs an overhead per batch size, and the costs of one token and of one node"
            )

    def at(self, batch: int, length: int) -> Cell:
        """The costs of `batch` rows of `length` tokens: straight lines between measured points, the nearest one beyond them."""
        rows, columns = _weights(self.batches, batch), _weights(self.lengths, length)
        target, draft = (
            sum(
                a * b * numpy.asarray(table[i][j], dtype=float) for i, a in rows for j, b in columns
            )
            for table in (self.target, self.draft)
        )
        target = numpy.interp(numpy.arange(1, self.tokens[-1] + 1), self.tokens, target)
        draft = numpy.interp(numpy.arange(1, self.widths[-1] + 1), self.widths, draft)
        return Cell(target, draft, sum(weight * self.overhead[i] for i, weight in rows))

    def check(self, facts: dict) -> None:
        """Raise a ValueError naming the first of IDENTITY in which `facts` differ from what was measured."""
        for name in IDENTITY:
            if self.facts.get(name) != facts.get(name):
                raise ValueError(
                    f"the cost table was measured with {name} {self.facts.get(name)!r}, this is {facts.get(name)!r}; measure here: eagle-hf plan"
                )

    def save(self, path: str | Path) -> None:
        """As JSON; appears whole or not at all."""
        scratch = Path(f"{path}.{os.getpid()}.tmp")  # another process may measure the same
        scratch.write_text(json.dumps(asdict(self), indent=1) + "\n")
        scratch.rename(path)

    @classmethod
    def load(cls, path: str | Path) -> "CostTable":
        """Inverse of save; ValueError for anything else."""
        try:
            return cls(**json.loads(Path(path).read_text()))
        except (TypeError, ValueError) as error:
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
