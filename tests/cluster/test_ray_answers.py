"""Answers of a Ray cluster of two nodes: as those of one machine, whatever dies.

Each cluster takes some 15 s to start. Runs where Ray is installed: pip install 'eagle_hf[cluster]'.
"""

import asyncio
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import pytest
from cluster_models import OpenTiny, many_prompts, read_log, save_tiny
from ray_nodes import RayNodes, environment

from eagle_hf.cluster.answering import RayAnswerer, ask_model
from eagle_hf.cluster.connection import connect
from eagle_hf.cluster.parts import PartFolder, take_turns
from eagle_hf.cluster.stages import Workers
from eagle_hf.data import TurnStore, collect_answers

pytest.importorskip("ray", reason="Ray is not installed: pip install 'eagle_hf[cluster]'")
pytestmark = pytest.mark.slow

UNIT = 16  # prompts
PROMPTS = 320
DRIVER = Path(__file__).with_name("cluster_driver.py")
WAITS_S = 240


@pytest.fixture(scope="module")
def target(tmp_path_factory):
    """The folder of a tiny target."""
    folder = tmp_path_factory.mktemp("target")
    save_tiny(folder)
    return folder


@pytest.fixture
def nodes(monkeypatch):
    """A cluster of two nodes of one worker each, to which this process is connected."""
    for name, value in environment().items():
        monkeypatch.setenv(name, value)
    with RayNodes() as nodes:
        nodes.add()
        ray = connect(nodes.executor)
        wait_until(lambda: ray.cluster_resources().get("CPU") == 2, nodes.log)
        yield nodes
        ray.shutdown()


def wait_until(is_so, explanation=str):
    """Wait until something is so."""
    deadline = time.monotonic() + WAITS_S
    while not is_so():
        assert time.monotonic() < deadline, f"not so after {WAITS_S} s: {explanation()}"
        time.sleep(0.1)


def answers_in(folder):
    """Every answer of a store by its prompt and turn."""
    found = {}
    with TurnStore(folder) as store:
        for prompt in store.prompts():
            for turn in store.turns(prompt["id"]):
                found[turn.id, turn.turn] = (turn.response_ids, turn.text, turn.prompt_ids)
    return found


def local_answers(target, prompts, folder):
    """The answers of this process alone."""
    with TurnStore(folder) as store:
        asyncio.run(collect_answers(OpenTiny(target)(), prompts, store))
    return answers_in(folder)


def cluster_answers(nodes, target, prompts, folder):
    """(report, answers) of the cluster."""
    ray = connect(nodes.executor)
    opening = OpenTiny(target, folder / "log")
    parts = str(folder / "parts")
    model = ask_model(ray, opening, Workers(), parts)
    with TurnStore(folder / "out") as store:
        answerer = RayAnswerer(
            ray,
            opening,
            workers=Workers(),
            parts=parts,
            model=model,
            store=store,
            unit_prompts=UNIT,
        )
        take_turns(store, PartFolder(parts).turns(), model)
        report = asyncio.run(collect_answers(answerer, prompts, store))
    return report, answers_in(folder / "out")


def both_work(log):
    """Whether two workers have computed some turns each."""
    counts = Counter(process for process, _ in read_log(log))
    return len(counts) == 2 and min(counts.values()) >= 20


def written_turns(folder):
    """Every turn that is kept: in the store of the driver, and in the parts of workers."""
    in_parts = {(turn.id, turn.turn) for _, turn, _ in PartFolder(str(folder / "parts")).turns()}
    return in_parts | set(answers_in(folder / "out"))


def test_a_killed_node_loses_nothing_and_repeats_nothing_finished(nodes, target, tmp_path):
    prompts = many_prompts(PROMPTS)
    at_the_kill = set()

    def kill_a_node():
        wait_until(lambda: both_work(tmp_path / "log"))
        nodes.kill(nodes.last)
        at_the_kill.update(written_turns(tmp_path))

    killing = threading.Thread(target=kill_a_node)
    killing.start()
    report, answers = cluster_answers(nodes, target, prompts, tmp_path)
    killing.join()
    # 1) The same answers as here, and every prompt counted once.
    assert answers == local_answers(target, prompts, tmp_path / "local")
    assert report.finished + len(report.skipped) == report.prompts == len(prompts)
    # 2) The node died in the middle, and what was written was not computed again.
    computed = Counter(key for _, key in read_log(tmp_path / "log"))
    assert 0 < len(at_the_kill) < len(answers)
    assert {computed[key] for key in at_the_kill} == {1}
    # 3) What was in flight was.
    assert sum(computed.values()) <= len(computed) + UNIT
    # 4) Nothing is left beside the store.
    assert not PartFolder(str(tmp_path / "parts")).names()


def test_a_killed_driver_repeats_nothing_finished(nodes, target, tmp_path):
    prompts = many_prompts(PROMPTS)
    command = [sys.executable, DRIVER, nodes.executor, target, tmp_path, str(PROMPTS)]
    driver = subprocess.Popen(list(map(str, command)), env=environment())
    wait_until(lambda: both_work(tmp_path / "log"))
    driver.kill()
    driver.wait()
    wait_until(lambda: is_quiet(tmp_path / "log"))
    before = written_turns(tmp_path)
    report, answers = cluster_answers(nodes, target, prompts, tmp_path)
    assert answers == local_answers(target, prompts, tmp_path / "local")
    assert 0 < len(before) < len(answers)
    assert report.turns == len(answers) - len(before)


def test_a_target_that_cannot_be_opened_is_refused_before_anything_is_answered(nodes, tmp_path):
    missing = tmp_path / "missing"
    with pytest.raises(ValueError, match="missing"):
        cluster_answers(nodes, missing, many_prompts(4), tmp_path)
    assert not PartFolder(str(tmp_path / "parts")).names()


def is_quiet(log):
    """Whether the workers of a dead driver have ended: nothing is computed any more."""
    before = len(read_log(log))
    time.sleep(3)
    return len(read_log(log)) == before
