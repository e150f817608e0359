"""kill -9 in every step: the same command goes on, and ends with what one run makes."""

import json
import multiprocessing
import os
import signal

import pytest
from workplaces import Workplace

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

    @property
    def tokenizer(self):
        if self.step == "prompts":
            die()
        return super().tokenizer

    def eos_token_ids(self):
        if self.step == "examples":
            die()
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


@pytest.fixture(scope="module")
def whole(tmp_path_factory, target_folder):
    """What one run makes that nobody kills."""
    place = Workplace(tmp_path_factory.mktemp("whole"), target_folder)
    place.run()
    return place.rows("conversations/conversations.jsonl"), place.rows("examples/examples.jsonl")


@pytest.mark.parametrize("step", STEPS)
def test_a_killed_run_goes_on_in_every_step(workplace, whole, step):
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
        # the second turn of one of them cannot be asked
        assert metrics["answers"]["already_there"] == FEW - 1
    if step == "features":
        assert metrics["features"]["written"] == 0
    conversations, examples = whole
    assert workplace.rows("conversations/conversations.jsonl") == conversations
    assert workplace.rows("examples/examples.jsonl") == examples
