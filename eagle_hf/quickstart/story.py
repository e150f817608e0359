"""The whole plot in a quarter of an hour: a head at work, then one trained on this machine.

Every step keeps its result in the folder, and is skipped when the result is already there.
Responses and training go on from where they were interrupted. What is asked at the end was never
trained on. A slow machine answers fewer prompts, so that the time stays the same.
"""

import time
from pathlib import Path

from eagle_hf.compat import quiet_libraries
from eagle_hf.provenance import dtype_name, machine
from eagle_hf.quickstart.budget import DEFAULT_MINUTES
from eagle_hf.quickstart.making import make_head
from eagle_hf.quickstart.screens import GLANCE, LOOK, print_heading, show
from eagle_hf.quickstart.targets import Targets

REFERENCE = Path(__file__).parents[2] / "model_cards" / "smollm2-135m-instruct-eagle3"


def quickstart(
    folder: Path, minutes: float = DEFAULT_MINUTES, prompts: int = 480, train: bool = True
) -> None:
    """Show the project's own head at work; then train one, and show that.

    Args:
        folder: where everything is kept. Steps whose results it holds are skipped.
        minutes: of training.
        prompts: answered for training, at most. A machine that would need longer than a quarter
            of an hour answers fewer.
        train: False stops after the project's own head.

    Raises:
        ValueError: for impossible budgets, and where the project's head is missing and nothing is
            to be trained.
    """
    if minutes <= 0 or prompts < 3:
        raise ValueError(
            f"minutes is {minutes} and prompts {prompts}; minutes must be positive and prompts at "
            "least 3"
        )
    folder.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    with quiet_libraries():
        targets = Targets()
        _show_target(targets)
        _show_reference(folder, targets, train, started)
        if train:
            _train_and_show(folder, targets, minutes, prompts, started)


def _show_target(targets: Targets) -> None:
    """Step 1: open the target."""
    print_heading(1, "The target: SmolLM2-135M-Instruct, embedded")
    target = targets.fastest_for("draft")
    device = machine(target)["device"]
    print(f"{device}: {dtype_name(target)} is what this machine decodes fastest in")


def _show_reference(folder: Path, targets: Targets, train: bool, started: float) -> None:
    """Step 2: the project's own head; a ValueError where it is missing and nothing else follows."""
    print_heading(2, "The head that comes with the project: the same prompts, with it and without")
    if (REFERENCE / "config.json").is_file():
        show(REFERENCE, folder / "reference", targets, GLANCE, started)
    elif train:
        print(
            "not in this installation: it lies in the repository, under model_cards; going on to "
            "train one"
        )
    else:
        raise ValueError(
            f"there is no head in {REFERENCE}; install from a clone of the repository, or train one"
        )


def _train_and_show(
    folder: Path, targets: Targets, minutes: float, prompts: int, started: float
) -> None:
    """Steps 3 to 6: prompts, responses, training, and the trained head."""
    count = make_head(folder, targets, minutes, prompts, started)
    print_heading(6, "The head trained here: the same prompts, with it and without")
    show(folder / "head", folder / "report", targets, LOOK, started)
    if count is not None:
        print(
            f"trained on {count} of {prompts} prompts for {minutes:g} minutes: more of both make "
            "a better head"
        )
