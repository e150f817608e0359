"""kill -9 in every phase: the same call goes on, and ends with what one call makes."""

import multiprocessing
import os
import shutil
import signal

import pytest

from eagle_hf.following import cycle, follow, learning
from eagle_hf.following.pool import Pool
from eagle_hf.following.versions import Versions
from eagle_hf.training import Eagle3Trainer

# Where a call dies: the owner of a function, its name, the call of it that dies, and whether it
# has done its work by then.
PLACES = {
    "first head": (Versions, "switch", 1, False),
    "reading": (Pool, "set_mark", 1, True),
    "beginning": (cycle, "measure_agreement", 1, True),
    "training": (Eagle3Trainer, "training_step", 7, True),
    "saving": (learning, "save_whole", 1, True),
    "measuring": (cycle, "measure_head", 2, True),
    "judging": (cycle, "note_acceptance", 1, True),
    "adopting": (Versions, "adopt", 2, True),
    "switching": (Versions, "switch", 2, True),
    "recording": (Versions, "record", 1, True),
    "finishing": (Pool, "shrink", 2, True),
    "pruning": (Versions, "prune", 2, False),
}
# One of every phase; the others take minutes.
QUICK = ("reading", "training", "measuring", "switching", "finishing")
TIMES = ("time", "training_seconds", "measuring_seconds")


def die_inside(owner, name, call, is_done):
    """Let the process end in a call of a function."""
    original = getattr(owner, name)
    calls = []

    def deadly(*arguments, **named):
        calls.append(name)
        if len(calls) == call and not is_done:
            os.kill(os.getpid(), signal.SIGKILL)
        result = original(*arguments, **named)
        if len(calls) == call:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(owner, name, deadly)


def follow_and_die(settings, place):
    die_inside(*PLACES[place])
    follow(settings, lambda line: None)


def facts_of(service):
    """What a finished call leaves behind."""
    pool = service.pool()
    (line,) = service.versions.history()
    for name in TIMES:
        line.pop(name)
    found = {
        "line": line,
        "current": service.versions.current(),
        "versions": service.versions.numbers(),
        "bounds": (pool.older_up_to(), pool.judged_up_to(), len(pool.arrivals(0))),
        "running": pool.fact("running", None),
        "files": sorted(path.name for path in service.out.iterdir()),
    }
    pool.close()
    return found


@pytest.fixture(scope="module")
def expected():
    """What one call makes, kept by the first test that asks."""
    return {}


def marked(place):
    """A place as a parameter of a test."""
    marks = () if place in QUICK else pytest.mark.slow
    return pytest.param(place, marks=marks)


@pytest.mark.parametrize("place", map(marked, PLACES))
def test_a_killed_call_goes_on(service, expected, place):
    service.write(0, 64)
    changes = dict(min_new=64, most_held_out=16)
    if not expected:
        service.follow(**changes)
        expected.update(facts_of(service))
        shutil.rmtree(service.out)
    # not forked: torch's threads do not live on in a fork
    process = multiprocessing.get_context("spawn").Process(
        target=follow_and_die, args=(service.settings(**changes), place)
    )
    process.start()
    process.join(300)
    assert process.exitcode == -signal.SIGKILL
    service.follow(**changes)
    assert facts_of(service) == expected
    assert expected["current"] == 2
