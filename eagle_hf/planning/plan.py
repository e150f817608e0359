"""A plan: what a drafter's guesses are worth for a target and what forwards cost on a machine; saved beside the head.

From it follow the policies that choose by cost: `sequoia` (a fixed tree for each batch and length) and `adaptive`.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy

from eagle_hf.planning.cost import CostTable
from eagle_hf.planning.policy import AdaptivePlan, Calibration, FixedPlan, SequoiaPlan

PLAN = "plan.json"


@dataclass(frozen=True)
class Plan:
    """costs: of this machine; shares [D][W]: acceptance by depth and rank (sequoia.py); calibration: of confidences, by depth."""

    costs: CostTable
    shares: tuple[tuple[float, ...], ...]
    calibration: Calibration

    def policy(self, tree) -> FixedPlan | AdaptivePlan:
        """How a run chooses its trees, within the bounds of a TreeConfig."""
        shares = numpy.asarray(self.shares)
        if tree.policy == "sequoia":
            return SequoiaPlan(self.costs, shares, tree.depth, tree.nodes)
        return AdaptivePlan(
            self.costs,
            shares,
            self.calibration,
            tree.depth,
            min(tree.top_k, shares.shape[1]),
            tree.nodes,
        )

    def save(self, folder: str | Path) -> None:
        """plan.json in a folder; appears whole or not at all."""
        scratch = Path(folder, PLAN + ".tmp")
        scratch.write_text(json.dumps(asdict(self)) + "\n")
        scratch.rename(Path(folder, PLAN))

    @classmethod
    def load(cls, folder: str | Path) -> "Plan":
        """Inverse of save; ValueError for anything else."""
        path = Path(folder, PLAN)
        try:
            read = json.loads(path.read_text())
            shares = tuple(map(tuple, read["shares"]))
            return cls(
                CostTable(**read["costs"]),
                shares,
                Calibration(**{name: tuple(part) for name, part in read["calibration"].items()}),
            )
        except (KeyError, TypeError, ValueError, AttributeError, OSError) as error:
            raise ValueError(f"{path} is no plan ({error}); make one: eagle-hf plan") from error
