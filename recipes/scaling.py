"""Fit and draw tau against the amount of training data.

First: python recipes/ablations.py --config recipes/configs/smollm2_scaling.yaml (heads on growing
data).

Hardware: any.
Duration: seconds.
Command:  python recipes/scaling.py --runs outputs/scaling --output_dir outputs/scaling-curve
Expected: OUTPUT/scaling.png and OUTPUT/metrics.json: the points, tau per doubling, and the
          extrapolation, marked as such.
"""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

from trl import TrlParser

from eagle_hf import DecodingStats
from eagle_hf.data import write_run
from eagle_hf.evaluation import draw_scaling, fit_scaling, read_acceptance


@dataclass
class ScalingArguments:
    """Which runs, and how far the line is drawn."""

    runs: str = field(
        metadata={"help": "Folder that recipes/ablations.py wrote; every run in it is a point."}
    )
    output_dir: str = field(metadata={"help": "Folder for scaling.png and metrics.json."})
    times: int = field(
        default=10, metadata={"help": "Extrapolate to so many times the largest run's tokens."}
    )
    max_steps: int = field(
        default=-1, metadata={"help": "Only the first so many runs (smoke tests)."}
    )


def find_runs(arguments: ScalingArguments) -> list[Path]:
    """The folders of finished runs, in order."""
    folders = sorted(path.parent for path in Path(arguments.runs).glob("*/tau.json"))
    if arguments.max_steps > 0:
        folders = folders[: arguments.max_steps]
    if not folders:
        raise ValueError(
            f"{arguments.runs} holds no run with a tau.json; run recipes/ablations.py first"
        )
    return folders


def main() -> None:
    (arguments,) = TrlParser((ScalingArguments,)).parse_args_and_config()
    folders = find_runs(arguments)

    # 1) response tokens of every run, and its rounds on every prompt
    tokens: list[int] = []
    runs: list[list[DecodingStats]] = []
    for folder in folders:
        tokens.append(json.loads((folder / "metrics.json").read_text())["response_tokens"])
        # the runs must have been measured on the same prompts
        runs.append(read_acceptance(folder / "tau.json", like=folders[0] / "tau.json"))

    # 2) the line
    scaling = fit_scaling(tokens, runs, arguments.times)
    Path(arguments.output_dir).mkdir(parents=True, exist_ok=True)
    draw_scaling(Path(arguments.output_dir, "scaling.png"), scaling)
    metrics = asdict(scaling) | {"summary": scaling.summary}
    write_run(arguments.output_dir, asdict(arguments), metrics)


if __name__ == "__main__":
    main()
