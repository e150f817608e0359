"""compile=True: the same tokens from tensors that never change their size."""

from dataclasses import replace

import pytest
import torch
from drafting import given_tree, plain_and_drafted
from fixed_trees import SHAPES, assistant_of, compiling
from tiny import left_padded
from torch.utils._pytree import tree_leaves

from eagle_hf.compat import take_cache
from eagle_hf.decoding import forward, loop, shapes
from eagle_hf.decoding.assistants import eagle
from eagle_hf.decoding.caches.buffers import BufferPool

pytestmark = pytest.mark.usefixtures("fixed_sizes")


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", ["head", "model", "window", "itself"])
def test_the_same_tokens_and_acceptance_as_with_growing_caches(
    target, trained_head, small_model, name, shape
):
    assistant = assistant_of(name, trained_head, small_model)
    inputs = left_padded(target, [9, 1, 40])
    settings = dict(max_new_tokens=50, do_sample=False, eos_token_id=5, pad_token_id=0)
    plain = target.generate(**inputs, **settings)
    runs = []
    for tree in (SHAPES[shape], replace(SHAPES[shape], compile=True)):
        with given_tree(assistant, tree):
            fast = target.generate(**inputs, **settings, assistant_model=assistant)
        assert torch.equal(plain, fast)
        runs.append(assistant.last_run)
    growing, fixed = runs
    assert growing.tokens == fixed.tokens
    assert growing.tau == pytest.approx(fixed.tau, rel=0.03)  # at the end trees stay whole


def test_sampled_tokens_are_those_of_the_target_alone(target, trained_head):
    settings = dict(max_new_tokens=60, do_sample=True, top_k=0, eos_token_id=None)
    with compiling(trained_head, SHAPES["dynamic"]) as head:
        plain, fast = plain_and_drafted(target, head, left_padded(target, [8]), 3, **settings)
    assert torch.equal(plain, fast)


def length_read(cache):
    """Slots that a drafter's attention reads; None for the target's cache."""
    return getattr(getattr(cache, "placement", None), "length", None)


def sizes_of(values):
    """The shapes of all tensors in nested values."""
    sizes = []
    for value in tree_leaves(values):
        if isinstance(value, torch.Tensor):
            sizes.append(tuple(value.shape))
    return sizes


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", ["head", "window"])
def test_every_round_computes_on_the_same_sizes(
    target, trained_head, small_model, name, shape, monkeypatch
):
    rounds = []  # a list of calls each
    original = loop.Run.round

    def uncompiled(function, device):
        def call(*args, **kwargs):
            cache, _ = take_cache(kwargs)
            rounds[-1].append((sizes_of(args), sizes_of(kwargs), length_read(cache)))
            return function(*args, **kwargs)

        return call

    def watched(run):
        rounds.append([])
        original(run)

    for module in (forward, eagle):
        monkeypatch.setattr(module, "compiled", uncompiled)
    monkeypatch.setattr(loop.Run, "round", watched)
    with compiling(assistant_of(name, trained_head, small_model), SHAPES[shape]) as assistant:
        target.generate(
            **left_padded(target, [7, 3]),
            assistant_model=assistant,
            max_new_tokens=40,
            do_sample=False,
            eos_token_id=None,
        )
    assert len(rounds) > 8
    _, second, *later = rounds  # the first round reads the drafter's prompt
    for calls in later:
        assert calls == second


def addresses_of(run):
    """Where a run's caches lie: the drafter's, then the target's."""
    addresses = []
    for layer in run.drafter.cache.layers:
        addresses += [layer.keys.data_ptr(), layer.values.data_ptr()]
    for layer in run.cache.layers:
        addresses += [layer._keys.data_ptr(), layer._values.data_ptr()]
    return tuple(addresses)


@pytest.fixture
def addresses(monkeypatch):
    """The caches' addresses after every round that runs."""
    found = []
    original = loop.Run.round

    def watched(run):
        original(run)
        found.append(addresses_of(run))

    monkeypatch.setattr(loop.Run, "round", watched)
    return found


def addresses_of_call(target, assistant, length, addresses):
    """Where the caches of a call lie, which is one place for all its rounds."""
    addresses.clear()
    inputs = left_padded(target, [length], seed=length)
    settings = dict(max_new_tokens=20, do_sample=False, eos_token_id=None)
    plain, fast = plain_and_drafted(target, assistant, inputs, **settings)
    assert torch.equal(plain, fast)
    assert len(set(addresses)) == 1
    return addresses[0]


@pytest.mark.parametrize("name", ["head", "window", "itself"])
def test_caches_keep_their_place_from_call_to_call(
    target, trained_head, small_model, name, addresses
):
    """Captured graphs know addresses: a second call finds those of the first."""
    with compiling(assistant_of(name, trained_head, small_model), SHAPES["dynamic"]) as assistant:
        found = []
        for length in (7, 30, 300, 7, 12):
            found.append(addresses_of_call(target, assistant, length, addresses))
    first, second, _, fourth, fifth = found
    assert first == second
    assert fourth == fifth


@pytest.mark.parametrize("name", ["head", "window", "itself"])
def test_calls_at_the_same_time_have_caches_of_their_own(
    target, trained_head, small_model, name, addresses
):
    with compiling(assistant_of(name, trained_head, small_model), SHAPES["dynamic"]) as assistant:
        before = addresses_of_call(target, assistant, 12, addresses)
        running = BufferPool(assistant)  # as of a call that is still running
        meanwhile = addresses_of_call(target, assistant, 7, addresses)
    assert not set(before) & set(meanwhile)
    assert running.zeros(torch.zeros(1), 3).shape == (3,)


@pytest.mark.parametrize("name", ["head", "window", "itself"])
def test_caches_made_in_inference_mode_serve_outside(
    target, trained_head, small_model, name, addresses
):
    """Outside, nothing may be written to what was made in inference mode."""
    with compiling(assistant_of(name, trained_head, small_model), SHAPES["dynamic"]) as assistant:
        for _ in range(2):
            with torch.inference_mode():
                addresses_of_call(target, assistant, 7, addresses)
            addresses_of_call(target, assistant, 7, addresses)


@pytest.mark.parametrize("name", ["head", "window", "itself"])
def test_nothing_is_kept_once_sizes_are_not_fixed_any_more(target, trained_head, small_model, name):
    inputs = left_padded(target, [7])
    assistant = assistant_of(name, trained_head, small_model)
    settings = dict(assistant_model=assistant, max_new_tokens=3, do_sample=False)
    with compiling(assistant, SHAPES["dynamic"]):
        target.generate(**inputs, **settings)
    target.generate(**inputs, **settings)
    assert not BufferPool(assistant)._former


def test_a_fixed_tree_made_in_inference_mode_serves_outside(target, trained_head):
    shapes.fixed_shape.cache_clear()
    settings = dict(
        left_padded(target, [7, 4]), do_sample=False, eos_token_id=None, max_new_tokens=20
    )
    with given_tree(trained_head, SHAPES["fixed"]):
        with torch.inference_mode():
            inside = target.generate(**settings, assistant_model=trained_head)
        outside = target.generate(**settings, assistant_model=trained_head)
    assert torch.equal(inside, outside)
