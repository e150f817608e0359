"""A plan: what a drafter's guesses are worth for a target, and what forwards cost on a machine.

It is saved beside the head. From it follow the policies that choose by cost: `sequoia` (a fixed
tree for each batch and length) and `adaptive`.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy

from eagle_hf.planning.calibration import Calibration
from eagle_hf.planning.cost import CostTable
from eagle_hf.planning.policies import AdaptivePolicy, SequoiaPolicy

PLAN = "plan.json"


@dataclass(frozen=True)
class Plan:
    """What was measured, and what trees follow from it.

    Attributes:
        costs: seconds of the forwards on one machine.
        shares: [D][W], acceptance by depth and rank, see sequoia.py.
        calibration: of the drafter's confidence, by depth.
    """

    costs: CostTable
    shares: tuple[tuple[float, ...], ...]
    calibration: Calibration

    def policy(self, tree) -> SequoiaPolicy | AdaptivePolicy:
        """How a run chooses its trees, within the bounds of a `TreeConfig`."""
        shares = numpy.asarray(self.shares)
        if tree.policy == "sequoia":
            return SequoiaPolicy(self.costs, shares, tree.depth, tree.nodes)
        return self.adaptive_policy(tree)

    def adaptive_policy(self, tree) -> AdaptivePolicy:
        """The policy that chooses anew every round, within the bounds of a `TreeConfig`."""
        shares = numpy.asarray(self.shares)
        k = min(tree.top_k, shares.shape[1])
        return AdaptivePolicy(self.costs, shares, self.calibration, tree.depth, k, tree.nodes)

    def save(self, folder: str | Path) -> None:
        """Write plan.json into a folder; it appears whole or not at all."""
        scratch = Path(folder, PLAN + ".tmp")
        scratch.write_text(json.dumps(asdict(self)) + "\n")
        scratch.rename(Path(folder, PLAN))

    @classmethod
    def load(cls, folder: str | Path) -> "Plan":
        """Read plan.json from a folder.

        Raises:
            ValueError: where there is none, or it holds something else.
        """
        path = Path(folder, PLAN)
        try:
            saved = json.loads(path.read_text())
            calibration = {name: tuple(part) for name, part in saved["calibration"].items()}
            return cls(
                costs=CostTable.from_saved(saved["costs"]),
                shares=tuple(map(tuple, saved["shares"])),
                calibration=Calibration(**calibration),
            )
        except (KeyError, TypeError, ValueError, AttributeError, OSError) as error:
            raise ValueError(f"{path} is no plan ({error}); make one: eagle-hf plan") from error
