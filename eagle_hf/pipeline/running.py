"""One run: for every step say what is to be done and why, do it, and write down what was done."""

import time
from collections.abc import Sequence
from pathlib import Path

from eagle_hf.data.answers import CONVERSATIONS
from eagle_hf.data.answers.report import NothingAnswered
from eagle_hf.data.manifest import only_one_run
from eagle_hf.pipeline.answers import keep_matching_answers
from eagle_hf.pipeline.checking import check_run
from eagle_hf.pipeline.examples import make_conversations, make_examples
from eagle_hf.pipeline.executor import Executor, Metrics
from eagle_hf.pipeline.inputs import Inputs
from eagle_hf.pipeline.local import counted
from eagle_hf.pipeline.looking import NAME_WIDTH, look_at_step
from eagle_hf.pipeline.prompts import make_prompts
from eagle_hf.pipeline.records import (
    AGAIN,
    DONE,
    IS_DONE,
    WAITS,
    StepRecord,
    Verdict,
    file_fingerprint,
    set_aside,
)
from eagle_hf.pipeline.rows import count_lines, write_rows
from eagle_hf.pipeline.settings import DataConfig
from eagle_hf.pipeline.sharding import SHARDED, Shard
from eagle_hf.pipeline.steps import Step, settings_of, steps_of
from eagle_hf.pipeline.target import RunTarget


def run_data(
    config: DataConfig,
    target: RunTarget,
    executor: Executor,
    *,
    only: Sequence[str] = (),
    shard: Shard | None = None,
) -> dict[str, Metrics]:
    """Make what is missing of a run's data, step by step.

    Args:
        config: of the run.
        target: of the run.
        executor: where the long steps run.
        only: names of the steps to run. Default: all of `config.steps`.
        shard: make this part of them alone. Its default for `only` is the answers.

    Returns:
        The counts of every step that is done, by its name.

    Raises:
        ValueError: what cannot be served, before the step that it concerns computes anything.
    """
    if shard is not None and not only:
        only = ("answers",)
    _check_steps(only, config, shard)
    inputs = Inputs(config, target, shard, in_parts=only if shard else ())
    with only_one_run(inputs.root):
        return _Run(inputs, executor, only).run()


def _check_steps(names: Sequence[str], config: DataConfig, shard: Shard | None) -> None:
    """Refuse names of steps that a run does not have, or that are not made in parts."""
    for name in names:
        if name not in config.steps:
            raise ValueError(
                f"{name!r} is no step of this run; it has {', '.join(config.steps)}, see `steps`"
            )
        if shard is not None and name not in SHARDED:
            raise ValueError(
                f"{name} is not made in shards; leave --shard out (shards make "
                f"{' and '.join(SHARDED)})"
            )


class _Run:
    """The steps of one run."""

    def __init__(self, inputs: Inputs, executor: Executor, only: Sequence[str]):
        self.config = inputs.config
        self.inputs = inputs
        self.executor = executor
        self.only = only
        self._is_checked = False
        self._left: dict[str, Verdict] = {}  # steps that this run does not make, though it should

    def run(self) -> dict[str, Metrics]:
        """Go through all steps; the counts of those that are done."""
        metrics = {}
        for step in self._steps():
            is_wanted = not self.only or step.name in self.only
            found = look_at_step(step, self.inputs)
            stale = [name for name in self.inputs.steps(step) if name in self._left]
            if stale and is_wanted:
                self._refuse(step, stale[0])
            is_done = found.verdict.action == IS_DONE and not stale
            if not is_wanted and not is_done:
                verdict = Verdict(WAITS, tuple(stale)) if stale else found.verdict
                self._left[step.name] = verdict
                print(f"{step.name:<{NAME_WIDTH}}is left, though it {verdict}", flush=True)
                continue
            print(f"{step.name:<{NAME_WIDTH}}{found.verdict}", flush=True)
            if is_done and found.record is not None:
                metrics[step.name] = found.record.metrics
                continue
            self._check(step)
            metrics[step.name] = self._make(step, found.verdict)
        return metrics

    def _check(self, step: Step) -> None:
        """Refuse what this or a later step would refuse, once."""
        if self._is_checked:
            return
        names = [one.name for one in self._steps()]
        left = names[names.index(step.name) :]
        wanted = [name for name in left if not self.only or name in self.only]
        check_run(self.config, self.inputs.target, wanted)
        self._is_checked = True

    def _steps(self) -> list[Step]:
        """All steps up to the last that is wanted."""
        steps = steps_of(self.config)
        if not self.only:
            return steps
        last = max(number for number, step in enumerate(steps) if step.name in self.only)
        return steps[: last + 1]

    def _refuse(self, step: Step, stale: str) -> None:
        """Refuse to build on a step that is to be made again, and is not made in this run."""
        advice = f"run it too: --only {stale} {step.name}"
        if self.inputs.shard is not None:
            advice = f"run the steps before {step.name} first, without --shard"
        raise ValueError(f"{step.name} is made from {stale}, which {self._left[stale]}; {advice}")

    def _make(self, step: Step, verdict: Verdict) -> Metrics:
        """Make a step, between the two states of its record."""
        started = time.perf_counter()
        folder = self.inputs.folder(step)
        self.inputs.choose(step)
        self._make_room(step, verdict, folder)
        folder.mkdir(parents=True, exist_ok=True)
        record = StepRecord(
            step=step.name,
            settings=settings_of(step, self.config),
            inputs=self.inputs.fingerprints(step),
        )
        record.write(folder)
        record.metrics = self._compute(step, folder)
        record.metrics.setdefault("seconds", round(time.perf_counter() - started, 1))
        if step.output is not None:
            record.output = file_fingerprint(folder / step.output)
        # What failed for want of a server is asked again by the next run.
        if not record.metrics.get("failed"):
            record.state = DONE
        record.write(folder)
        return record.metrics

    def _make_room(self, step: Step, verdict: Verdict, folder: Path) -> None:
        """Rename what a step made before, as far as it cannot be used."""
        if verdict.action == AGAIN:
            old = set_aside(folder)
            self._move_captured(step, folder)
            what = "what it made before"
        elif step.name == "answers":
            old = keep_matching_answers(self.inputs.asked(), folder)
            what = "the old answers to prompts that changed"
        else:
            return
        if old is not None:
            print(f"{'':<{NAME_WIDTH}}{what}: kept in {old}")

    def _move_captured(self, step: Step, folder: Path) -> None:
        """Rename features that lie outside the step's folder; on remote ones capture refuses."""
        if step.name != "features":
            return
        url = self.inputs.features_url()
        path = Path(url)
        is_elsewhere = "://" not in url and path != folder and path.is_dir()
        if is_elsewhere:
            print(f"{'':<{NAME_WIDTH}}what it captured before: kept in {set_aside(path)}")

    def _compute(self, step: Step, folder: Path) -> Metrics:
        """Do what a step is for; its counts."""
        config = self.config
        inputs = self.inputs
        executor = self.executor
        if step.name == "prompts":
            return make_prompts(config, inputs.target, folder)
        if step.name == "privacy":
            return executor.filter_prompts(config, inputs.output_of("prompts"), folder)
        if step.name == "answers":
            return self._answer(folder)
        if step.name == "conversations":
            answered = inputs.output_of("answers")
            return make_conversations(config, inputs.asked(), answered, folder, executor)
        if step.name == "examples":
            conversations = inputs.output_of("conversations")
            return make_examples(config, inputs.target, conversations, folder)
        assert step.name == "features", "every step is made"
        return self._capture()

    def _answer(self, folder: Path) -> Metrics:
        """Let the target answer; a shard may have nothing to ask."""
        asked = self.inputs.asked()
        if self.inputs.shard is not None and count_lines(asked) == 0:
            write_rows(folder / CONVERSATIONS, [])
            return {"prompts": 0}
        try:
            return self.executor.answer_prompts(self.config, asked, folder)
        except NothingAnswered as nothing:
            if self.inputs.shard is None:
                raise
            # Other shards may have answers; together they are looked at when they are joined.
            return counted(nothing.report)

    def _capture(self) -> Metrics:
        """Write the target's states; a shard may have nothing to read."""
        examples = self.inputs.read_examples()
        if self.inputs.shard is not None and count_lines(examples) == 0:
            return {"written": 0}
        url = self.inputs.features_url()
        return self.executor.capture_features(self.config, examples, url)
