"""kill -9 in every step: the same command goes on, and ends with what one run makes."""

import json
import multiprocessing
import os
import signal
from pathlib import Path

import pytest

from eagle_hf.pipeline import LocalExecutor, RunTarget, run_data
from eagle_hf.pipeline.rows import read_rows, write_rows

STEPS = ["prompts", "privacy", "answers", "conversations", "examples", "features"]
FEW = 4  # prompts that are answered before the kill


def die():
    os.kill(os.getpid(), signal.SIGKILL)


class DyingTarget(RunTarget):
    """Ends its process when the step asks for it."""

    def __init__(self, config, step):
        super().__init__(config)
        self.step = step

    def die_inside(self, step):
        """Both are asked for before the first step begins, too."""
        has_begun = Path(self.config.output_dir, step, "step.json").exists()
        if self.step == step and has_begun:
            die()

    @property
    def tokenizer(self):
        self.die_inside("prompts")
        return super().tokenizer

    def eos_token_ids(self):
        self.die_inside("examples")
        return super().eos_token_ids()


class DyingExecutor(LocalExecutor):
    """Ends its process in a stage: behind a part of its work, or behind all of it."""

    def __init__(self, target, step):
        super().__init__(target)
        self.step = step

    def filter_prompts(self, config, prompts, folder):
        metrics = super().filter_prompts(config, prompts, folder)
        if self.step == "privacy":
            die()
        return metrics

    def answer_prompts(self, config, prompts, folder):
        if self.step == "answers":
            part = folder.parent / "part.jsonl"
            write_rows(part, list(read_rows(prompts))[:FEW])
            super().answer_prompts(config, part, folder)
            die()
        return super().answer_prompts(config, prompts, folder)

    def filter_conversations(self, config, conversations, folder):
        if self.step == "conversations":
            die()
        return super().filter_conversations(config, conversations, folder)

    def capture_features(self, config, examples, url):
        metrics = super().capture_features(config, examples, url)
        if self.step == "features":
            die()
        return metrics


def run_and_die(config, step):
    target = DyingTarget(config, step)
    run_data(config, target, DyingExecutor(target, step))


@pytest.mark.parametrize("step", STEPS)
def test_a_killed_run_goes_on_in_every_step(workplace, finished_run, step):
    process = multiprocessing.get_context("fork").Process(
        target=run_and_die, args=(workplace.config(), step)
    )
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    record = json.loads((workplace.output / step / "step.json").read_text())
    assert record["state"] == "begun"

    metrics = workplace.run()
    if step == "answers":
        assert metrics["answers"]["already_there"] == FEW
    if step == "features":
        assert metrics["features"]["written"] == 0
    whole, _ = finished_run
    for name in ("conversations/conversations.jsonl", "examples/examples.jsonl"):
        assert workplace.rows(name) == whole.rows(name)
