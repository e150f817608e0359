"""What is to be done about a step: its record compared with the settings and files of this run."""

from dataclasses import dataclass
from pathlib import Path

from eagle_hf.pipeline.inputs import TARGET, Inputs
from eagle_hf.pipeline.records import (
    AGAIN,
    BEGINS,
    DONE,
    GOES_ON,
    IS_DONE,
    WAITS,
    StepRecord,
    Verdict,
    changed_inputs,
    changed_settings,
    file_fingerprint,
)
from eagle_hf.pipeline.steps import Step, default_settings, settings_of, steps_of

NAME_WIDTH = 14  # of the name of a step in what is printed


@dataclass(frozen=True)
class FoundStep:
    """What a run finds of a step.

    Attributes:
        verdict: what is to be done.
        record: of the last run; None where there is none.
    """

    verdict: Verdict
    record: StepRecord | None


def look_at_step(step: Step, inputs: Inputs) -> FoundStep:
    """Find out what is to be done about a step.

    Args:
        step: of the run.
        inputs: of the run.

    Returns:
        The verdict, and what it was compared with.

    Raises:
        ValueError: its record cannot be read.
    """
    folder = inputs.folder(step)
    record = StepRecord.read(folder)
    missing = [name for name, path in inputs.files(step).items() if not path.is_file()]
    if missing:
        return FoundStep(Verdict(WAITS, (" and ".join(missing),)), record)
    if record is None:
        holds_something = folder.is_dir() and any(folder.iterdir())
        action = GOES_ON if holds_something else BEGINS
        return FoundStep(Verdict(action), None)
    return FoundStep(_compare(step, inputs, record), record)


def _compare(step: Step, inputs: Inputs, record: StepRecord) -> Verdict:
    """The verdict on a step that has a record."""
    reasons = changed_settings(
        record.settings, settings_of(step, inputs.config), default_settings()
    )
    changed = changed_inputs(record.inputs, inputs.fingerprints(step))
    # A step that grows keeps what it made of its old files, but not what another target made.
    can_grow = step.grows and not any(reason.startswith(TARGET) for reason in changed)
    if not can_grow:
        reasons += changed
    if reasons:
        return Verdict(AGAIN, tuple(reasons))
    if changed:
        return Verdict(GOES_ON, tuple(changed))
    if record.state != DONE:
        reason = failed_last_time(record) or "it was interrupted"
        return Verdict(GOES_ON, (reason,))
    return _look_at_output(step, inputs.folder(step), record)


def failed_last_time(record: StepRecord) -> str | None:
    """Why a step that came to its end goes on: prompts that failed; None where none did."""
    failed = record.metrics.get("failed")
    return f"{failed} failed last time" if failed else None


def _look_at_output(step: Step, folder: Path, record: StepRecord) -> Verdict:
    """The verdict on a step that was done: is its output there, and as it was?"""
    if step.output is None:
        return Verdict(IS_DONE)
    path = folder / step.output
    if not path.is_file():
        return Verdict(GOES_ON if step.grows else AGAIN, (f"{path.name} is missing",))
    if file_fingerprint(path) != record.output:
        return Verdict(IS_DONE, (f"{path.name} was edited since, and is used as it is",))
    return Verdict(IS_DONE)


def describe_steps(inputs: Inputs) -> list[str]:
    """Say what a run would do.

    Args:
        inputs: of the run.

    Returns:
        A line for each step.
    """
    lines = []
    unfinished: list[str] = []
    for step in steps_of(inputs.config):
        waits_for = [name for name in inputs.steps(step) if name in unfinished]
        verdict = look_at_step(step, inputs).verdict
        if verdict.action != IS_DONE or waits_for:
            unfinished.append(step.name)
        text = f"follows {' and '.join(waits_for)}" if waits_for else str(verdict)
        lines.append(f"{step.name:<{NAME_WIDTH}}{text}")
    return lines
