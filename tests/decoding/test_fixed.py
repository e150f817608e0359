"""compile=True: the same tokens from tensors that never change their size, which a compiler takes whole."""

import sys
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from drafting import given_tree
from tiny import left_padded, tiny_target
from torch.utils._python_dispatch import TorchDispatchMode

from eagle_hf import SelfSpeculation, TreeConfig, WindowedDraft
from eagle_hf.compat import take_cache
from eagle_hf.decoding import forward, loop, shapes, stats
from eagle_hf.decoding.assistants import eagle
from eagle_hf.decoding.caches.buffers import BufferPool
from eagle_hf.decoding.upload import upload

SHAPES = {
    "dynamic": TreeConfig(depth=4, top_k=4, nodes=11),
    "chain": TreeConfig("chain", depth=3),
    "deep": TreeConfig(depth=7, top_k=2, nodes=3),
    "fixed": TreeConfig("sequoia", parents=(0, 0, 0, 1, 1, 2, 3), ranks=(0, 0, 1, 0, 1, 0, 0)),
}


@pytest.fixture(scope="module")
def small():
    return tiny_target(layers=2, seed=3)


def assistant_of(name, head, small):
    return {
        "head": head,
        "model": WindowedDraft(small, window=None),
        "window": WindowedDraft(small, 2, 9),
        "itself": SelfSpeculation(2, 9),
    }[name]


@contextmanager
def compiling(assistant, tree):
    own, assistant.tree = assistant.tree, replace(tree, compile=True)
    yield assistant
    assistant.tree = own


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", ["head", "model", "window", "itself"])
def test_the_same_tokens_and_acceptance_as_with_growing_caches(
    target, trained_head, small, name, shape
):
    assistant, inputs = assistant_of(name, trained_head, small), left_padded(target, [9, 1, 40])
    settings, runs = dict(max_new_tokens=50, do_sample=False, eos_token_id=5, pad_token_id=0), []
    plain = target.generate(**inputs, **settings)
    for tree in (SHAPES[shape], replace(SHAPES[shape], compile=True)):
        own, assistant.tree = assistant.tree, tree
        assert torch.equal(plain, target.generate(**inputs, **settings, assistant_model=assistant))
        assistant.tree = own
        runs.append(assistant.last_run)
    assert runs[0].tokens == runs[1].tokens and runs[0].tau == pytest.approx(
        runs[1].tau, rel=0.03
    )  # at the end trees stay whole


def test_sampled_tokens_are_those_of_the_target_alone(target, trained_head):
    settings, outputs = dict(max_new_tokens=60, do_sample=True, top_k=0, eos_token_id=None), []
    with compiling(trained_head, SHAPES["dynamic"]) as head:
        for assistant in (None, head):
            torch.manual_seed(3)
            outputs.append(
                target.generate(**left_padded(target, [8]), **settings, assistant_model=assistant)
            )
    assert torch.equal(*outputs)


def length_read(cache):
    """Slots that a drafter's attention reads; None for the target's cache."""
    return getattr(getattr(cache, "placement", None), "length", None)


def shapes_of(value):
    return tuple(
        tuple(part.shape)
        for part in torch.utils._pytree.tree_leaves(value)
        if isinstance(part, torch.Tensor)
    )


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", ["head", "window"])
def test_every_round_computes_on_the_same_sizes(
    target, trained_head, small, name, shape, monkeypatch
):
    seen, original = [], loop.Run.round

    def watched(function, device):
        def call(*args, **kwargs):
            cache, _ = take_cache(kwargs)
            seen[-1].append((shapes_of(args), shapes_of(kwargs), length_read(cache)))
            return function(*args, **kwargs)

        return call

    for module in (forward, eagle):
        monkeypatch.setattr(module, "compiled", watched)
    monkeypatch.setattr(loop.Run, "round", lambda run: (seen.append([]), original(run)))
    with compiling(assistant_of(name, trained_head, small), SHAPES[shape]) as assistant:
        target.generate(
            **left_padded(target, [7, 3]),
            assistant_model=assistant,
            max_new_tokens=40,
            do_sample=False,
            eos_token_id=None,
        )
    assert len(seen) > 8 and all(
        calls == seen[1] for calls in seen[1:]
    )  # the first round reads the drafter's prompt


class Waits(TorchDispatchMode):
    """Operations that make the host wait for a GPU: values read, sizes that follow from values."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if any(
            name in str(function)
            for name in ("_local_scalar_dense", "nonzero", "masked_select", "unique")
        ):
            self.found.append(str(function))
        return function(*args, **kwargs or {})


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", ["head", "model", "window", "itself"])
def test_a_greedy_round_waits_for_the_device_once(
    target, trained_head, small, name, shape, monkeypatch
):
    waits, original, read, build = [], loop.Run.round, torch.Tensor.tolist, torch.tensor

    def built(*args, **kwargs):
        if (
            waits
            and (caller := sys._getframe(1).f_globals["__name__"]) != "eagle_hf.decoding.upload"
        ):
            waits[-1].append(f"torch.tensor in {caller}")  # a copy from pageable memory
        return build(*args, **kwargs)

    def watched(run):
        with Waits() as mode:
            waits.append(mode.found)
            original(run)

    monkeypatch.setattr(
        torch.Tensor, "tolist", lambda tensor: (waits[-1].append("tolist"), read(tensor))[1]
    )
    monkeypatch.setattr(torch, "tensor", built)
    monkeypatch.setattr(loop.Run, "round", watched)
    with compiling(assistant_of(name, trained_head, small), SHAPES[shape]) as assistant:
        waits.append([])  # of the prefill
        target.generate(
            **left_padded(target, [7]),
            assistant_model=assistant,
            max_new_tokens=40,
            do_sample=False,
            eos_token_id=5,
        )
    assert len(waits) > 8 and all(found == ["tolist"] for found in waits[2:])


def test_a_gpu_is_sent_small_lists_from_pinned_memory(monkeypatch):
    built, sent = torch.tensor, []

    class Pinned:
        def to(self, device, non_blocking):
            sent.append((device, non_blocking))

    monkeypatch.setattr(
        torch,
        "tensor",
        lambda values, device, pin_memory: (sent.append((values, device, pin_memory)), Pinned())[1],
    )
    upload([1, 2], torch.device("cuda"))
    assert sent == [([1, 2], "cpu", True), (torch.device("cuda"), True)]
    monkeypatch.setattr(torch, "tensor", built)
    assert upload([[True, False]], torch.device("cpu")).tolist() == [[True, False]]


@pytest.fixture
def graphs(monkeypatch):
    """What the forwards were compiled to, in a compiler that has compiled nothing yet."""
    found = []

    def backend(graph, inputs):
        found.append(graph)
        return graph.forward

    torch._dynamo.reset()
    for module in (forward, eagle):
        monkeypatch.setattr(
            module,
            "compiled",
            lambda function, device: torch.compile(
                function, fullgraph=True, dynamic=False, backend=backend
            ),
        )
    return found


@pytest.mark.parametrize("name", ["head", "window"])
def test_calls_of_many_lengths_share_their_graphs(target, trained_head, small, name, graphs):
    with compiling(assistant_of(name, trained_head, small), SHAPES["dynamic"]) as assistant:
        counts = []
        for length in (7, 7, *range(8, 18)):
            target.generate(
                **left_padded(target, [length]),
                assistant_model=assistant,
                max_new_tokens=20,
                do_sample=False,
                eos_token_id=None,
            )
            counts.append(len(graphs))
    assert counts[0] == counts[-1] > 1, counts


@pytest.mark.parametrize("name", ["head", "window"])
def test_forwards_compile_whole_and_once(trained_head, small, name, graphs, monkeypatch):
    """No graph breaks (fullgraph), and nothing compiled anew once a run has seen its shapes; on a target that has never run."""
    target = tiny_target()
    inputs, settings = (
        left_padded(target, [7, 3]),
        dict(do_sample=False, eos_token_id=None, max_new_tokens=40),
    )
    with compiling(assistant_of(name, trained_head, small), SHAPES["dynamic"]) as assistant:
        counts, original = [], loop.Run.round
        monkeypatch.setattr(
            loop.Run, "round", lambda run: (original(run), counts.append(len(graphs)))
        )
        fast = target.generate(**inputs, **settings, assistant_model=assistant)
    assert torch.equal(fast, target.generate(**inputs, **settings))
    assert len(counts) > 8 and counts[1] == counts[-1] > 1, counts


@pytest.mark.parametrize("compile", [False, True])
def test_without_a_gpu_no_round_loads_the_compiler(target, head, compile, monkeypatch):
    monkeypatch.setattr(
        torch.compiler,
        "cudagraph_mark_step_begin",
        lambda: pytest.fail("torch's compiler was called"),
    )
    with compiling(head, SHAPES["dynamic"]):
        head.tree = replace(head.tree, compile=compile)
        target.generate(
            **left_padded(target, [7]),
            assistant_model=head,
            max_new_tokens=6,
            do_sample=False,
            eos_token_id=None,
        )
    assert head.last_run.rounds > 0


@pytest.mark.parametrize("name", ["head", "window", "itself"])
def test_caches_keep_their_place_from_call_to_call(target, trained_head, small, name, monkeypatch):
    """Captured graphs know addresses: a second call finds the first one's, one that runs meanwhile has others, and all are right."""
    places, original = [], loop.Run.round

    def watched(run):
        original(run)
        settled = [
            part for layer in run.drafter.cache.layers for part in (layer.keys, layer.values)
        ]
        places[-1].add(
            tuple(
                part.data_ptr()
                for part in settled
                + [part for layer in run.cache.layers for part in (layer._keys, layer._values)]
            )
        )

    monkeypatch.setattr(loop.Run, "round", watched)

    def both(length):
        settings = dict(max_new_tokens=20, do_sample=False, eos_token_id=None)
        inputs, places[len(places) :] = left_padded(target, [length], seed=length), [set()]
        fast = target.generate(**inputs, **settings, assistant_model=assistant)
        assert torch.equal(fast, target.generate(**inputs, **settings))

    with compiling(assistant_of(name, trained_head, small), SHAPES["dynamic"]) as assistant:
        for length in (7, 30, 300, 7, 12):
            both(length)
        assert all(len(found) == 1 for found in places)
        first, second, _, third, fourth = (found.pop() for found in places)
        assert first == second and third == fourth
        held, places[:] = BufferPool(assistant), []  # as a call that is still running
        both(7)
        assert not set(fourth) & set(places[0].pop()) and held.zeros(torch.zeros(1), 3).shape == (
            3,
        )
        for _ in range(2):  # what was made in inference mode may not be written to outside
            with torch.inference_mode():
                both(7)
            both(7)
    target.generate(
        **left_padded(target, [7]), assistant_model=assistant, max_new_tokens=3, do_sample=False
    )
    assert not BufferPool(
        assistant
    )._former  # nothing is kept once the sizes are not fixed any more


def test_a_fixed_tree_made_in_inference_mode_serves_outside(target, trained_head):
    shapes.fixed_shape.cache_clear()
    inputs, settings = (
        left_padded(target, [7, 4]),
        dict(do_sample=False, eos_token_id=None, max_new_tokens=20),
    )
    with given_tree(trained_head, SHAPES["fixed"]):
        with torch.inference_mode():
            first = target.generate(**inputs, **settings, assistant_model=trained_head)
        assert torch.equal(
            first, target.generate(**inputs, **settings, assistant_model=trained_head)
        )


def test_trees_that_follow_costs_have_no_fixed_shape():
    with pytest.raises(ValueError, match="compile=True needs a tree of one shape, and 'adaptive'"):
        TreeConfig("adaptive", compile=True)


def test_on_a_gpu_phases_are_timed_by_events_read_at_the_end(monkeypatch):
    clock, waited = iter(range(100)), []

    class Event:
        def __init__(self, enable_timing):
            assert enable_timing

        def record(self):
            self.at = next(clock)

        def elapsed_time(self, end):
            assert waited, "an event was read before the GPU had come to it"
            return 1000.0 * (end.at - self.at)

        def synchronize(self):
            waited.append(self)

    monkeypatch.setattr(torch.cuda, "Event", Event)
    watch = stats.Stopwatch(torch.device("cuda"))
    with watch.phase("draft"), watch.phase("head"):
        pass
    assert not waited and watch.seconds["head"] == 1.0 and watch.seconds["draft"] == 2.0
