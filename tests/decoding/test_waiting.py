"""What makes the host wait for a GPU: one result a round, no small lists, no clocks."""

import sys

import pytest
import torch
from fixed_trees import SHAPES, assistant_of, compiling
from tiny import left_padded
from torch.utils._python_dispatch import TorchDispatchMode

from eagle_hf.decoding import loop, stats
from eagle_hf.decoding.upload import upload

pytestmark = pytest.mark.usefixtures("fixed_sizes")

# operations that return values to the host, or sizes that follow from values
WAITING = ("_local_scalar_dense", "nonzero", "masked_select", "unique")


class Waits(TorchDispatchMode):
    """Operations that make the host wait for a GPU."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = str(function)
        if any(part in name for part in WAITING):
            self.found.append(name)
        return function(*args, **kwargs or {})


@pytest.fixture
def waits(monkeypatch):
    """What each round of a run waits for; the first list is the prefill's."""
    found = [[]]
    original_round = loop.Run.round
    original_tolist = torch.Tensor.tolist
    original_tensor = torch.tensor

    def watched_round(run):
        with Waits() as mode:
            found.append(mode.found)
            original_round(run)

    def watched_tolist(tensor):
        found[-1].append("tolist")
        return original_tolist(tensor)

    def watched_tensor(*args, **kwargs):
        caller = sys._getframe(1).f_globals["__name__"]
        if caller != "eagle_hf.decoding.upload":
            found[-1].append(f"torch.tensor in {caller}")  # a copy from pageable memory
        return original_tensor(*args, **kwargs)

    monkeypatch.setattr(loop.Run, "round", watched_round)
    monkeypatch.setattr(torch.Tensor, "tolist", watched_tolist)
    monkeypatch.setattr(torch, "tensor", watched_tensor)
    return found


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", ["head", "model", "window", "itself"])
def test_a_greedy_round_waits_for_the_device_once(
    target, trained_head, small_model, name, shape, waits
):
    with compiling(assistant_of(name, trained_head, small_model), SHAPES[shape]) as assistant:
        target.generate(
            **left_padded(target, [7]),
            assistant_model=assistant,
            max_new_tokens=40,
            do_sample=False,
            eos_token_id=5,
        )
    assert len(waits) > 8
    for found in waits[2:]:  # without the prefill and the drafter's own
        assert found == ["tolist"]


def test_a_gpu_is_sent_small_lists_from_pinned_memory(monkeypatch):
    sent = []

    class Pinned:
        def to(self, device, non_blocking):
            sent.append((device, non_blocking))

    def build_pinned(values, device, pin_memory):
        sent.append((values, device, pin_memory))
        return Pinned()

    monkeypatch.setattr(torch, "tensor", build_pinned)
    upload([1, 2], torch.device("cuda"))
    assert sent == [([1, 2], "cpu", True), (torch.device("cuda"), True)]


def test_a_list_stays_on_a_cpu():
    assert upload([[True, False]], torch.device("cpu")).tolist() == [[True, False]]


def test_on_a_gpu_phases_are_timed_by_events_read_at_the_end(monkeypatch):
    clock = iter(range(100))
    waited = []

    class Event:
        def __init__(self, enable_timing):
            assert enable_timing

        def record(self):
            self.time = next(clock)

        def elapsed_time(self, end):
            assert waited, "an event was read before the GPU had come to it"
            return 1000.0 * (end.time - self.time)

        def synchronize(self):
            waited.append(self)

    monkeypatch.setattr(torch.cuda, "Event", Event)
    watch = stats.Stopwatch(torch.device("cuda"))
    with watch.phase("draft"), watch.phase("head"):
        pass
    assert not waited
    assert watch.seconds["head"] == 1.0
    assert watch.seconds["draft"] == 2.0
