"""`eagle-hf data --executor ray` leaves the folders that one machine leaves."""

import json

import pytest
import torch
from cluster_models import save_tiny
from ray_nodes import RayNodes, environment

from eagle_hf.cluster import RayExecutor
from eagle_hf.data import Features
from eagle_hf.pipeline import LocalExecutor, RunTarget, read_config, run_data

pytest.importorskip("ray", reason="Ray is not installed: pip install 'eagle_hf[cluster]'")
pytestmark = pytest.mark.slow

STEPS = ["prompts", "privacy", "answers", "conversations", "examples", "features"]


@pytest.fixture(scope="module")
def target(tmp_path_factory):
    """The folder of a tiny target."""
    folder = tmp_path_factory.mktemp("target")
    save_tiny(folder)
    return folder


@pytest.fixture(scope="module")
def nodes():
    """A cluster of one node; every test connects anew."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment().items():
            patch.setenv(name, value)
        with RayNodes() as nodes:
            yield nodes


class Run:
    """Runs of the same prompts into one output folder."""

    def __init__(self, folder, target, count=40):
        self.output = folder / "out"
        self.flags = {
            "target": str(target),
            "target_dtype": "float32",
            "output_dir": str(self.output),
            "steps": STEPS,
            "prompts.sources": [str(folder / "mine.jsonl")],
            "answers.max_new_tokens": 12,
            "answers.batch_size": 4,
            "features.storage_dtype": "float32",
            "cluster.unit_prompts": 16,
        }
        rows = []
        for number in range(count):
            turns = [f"w{5 + number % 11} w{6 + number % 7}"]
            if number == 7:
                turns.append("write to jane@example.com")
            rows.append({"id": f"q{number}", "turns": turns, "category": "words"})
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / "mine.jsonl").write_text(text)

    def start(self, executor, only=(), **changes):
        """Make what is missing."""
        named = {name.replace("__", "."): value for name, value in changes.items()}
        config = read_config(None, self.flags | {"executor": executor} | named)
        run_target = RunTarget(config)
        kind = LocalExecutor
        where = [run_target]
        if executor != "local":
            kind = RayExecutor
            where = [config, run_target]
        runs = kind(*where)
        try:
            return run_data(config, run_target, runs, only=only)
        finally:
            runs.close()

    def rows(self, name):
        """The rows of a file by their ids."""
        lines = (self.output / name).read_text().splitlines()
        return {row["id"]: row for row in map(json.loads, lines)}


@pytest.fixture
def here(tmp_path, target):
    """A run on this machine."""
    (tmp_path / "here").mkdir()
    return Run(tmp_path / "here", target)


@pytest.fixture
def there(tmp_path, target):
    """The same run, for the cluster."""
    (tmp_path / "there").mkdir()
    return Run(tmp_path / "there", target)


def test_every_step_has_the_rows_of_a_local_run(here, there, nodes):
    here.start("local")
    metrics = there.start(nodes.executor)
    for name in (
        "privacy/prompts.jsonl",
        "answers/conversations.jsonl",
        "conversations/conversations.jsonl",
        "examples/examples.jsonl",
    ):
        assert there.rows(name) == here.rows(name), name
    assert metrics["answers"]["finished"] + metrics["answers"]["skipped"] == 40
    expected = Features(here.output / "features")
    found = Features(there.output / "features")
    assert sorted(found.ids) == sorted(expected.ids)
    for name in found.ids:
        one = found[found.ids.index(name)]
        other = expected[expected.ids.index(name)]
        assert torch.equal(one["input_ids"], other["input_ids"])
        torch.testing.assert_close(one["hidden_states"], other["hidden_states"])


def test_a_run_that_began_here_goes_on_there_and_the_other_way_round(there, nodes):
    only = ["prompts", "privacy", "answers"]
    there.start("local", only, max_prompts=10)
    middle = there.start(nodes.executor, only, max_prompts=25)["answers"]
    last = there.start("local", only)["answers"]
    # The eighth prompt has two turns, whose first answer has special tokens inside.
    assert (middle["already_there"], middle["finished"], middle["skipped"]) == (9, 15, 1)
    assert (last["already_there"], last["finished"], last["skipped"]) == (24, 15, 1)


def test_what_a_worker_refuses_is_refused_by_name(there, nodes):
    with pytest.raises(ValueError, match="reads no misspelt"):
        there.start(nodes.executor, chat_template_kwargs={"misspelt": True})
    assert not (there.output / "answers" / "conversations.jsonl").exists()
