"""Fit and draw tau against the amount of training data.

Hardware: any, seconds. First: python recipes/ablations.py --config recipes/configs/smollm2_scaling.yaml (heads on growing data)
Command:  python recipes/scaling.py --runs outputs/scaling --output_dir outputs/scaling-curve
Expected: OUTPUT/scaling.png and OUTPUT/metrics.json: the points, tau per doubling, and the extrapolation, marked as such.
"""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

from trl import TrlParser

from eagle_hf import DecodingStats, write_run
from eagle_hf.evaluation.report import read_acceptance
from eagle_hf.evaluation.scaling import draw_scaling, fit_scaling


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


def read_run(folder: Path, first: Path) -> tuple[int, list[DecodingStats]]:
    """Response tokens that a run's head was trained on, and its rounds on every prompt, the same as the first run's."""
    tokens = json.loads((folder / "metrics.json").read_text())["response_tokens"]
    return tokens, read_acceptance(folder / "tau.json", like=first / "tau.json")


def main():
    (arguments,) = TrlParser((ScalingArguments,)).parse_args_and_config()
    folders = sorted(path.parent for path in Path(arguments.runs).glob("*/tau.json"))
    folders = folders[: arguments.max_steps] if arguments.max_steps > 0 else folders
    if not folders:
        raise ValueError(
            f"{arguments.runs} holds no run with a tau.json; run recipes/ablations.py first"
        )
    tokens, runs = zip(*(read_run(folder, folders[0]) for folder in folders))
    scaling = fit_scaling(tokens, runs, arguments.times)
    Path(arguments.output_dir).mkdir(parents=True, exist_ok=True)
    draw_scaling(Path(arguments.output_dir, "scaling.png"), scaling)
    write_run(
        arguments.output_dir, asdict(arguments), asdict(scaling) | {"summary": scaling.summary}
    )


if __name__ == "__main__":
    main()
