"""compile=True: a compiler takes every forward whole, and once."""

from dataclasses import replace

import pytest
import torch
from drafting import given_tree
from fixed_trees import SHAPES, assistant_of, compiling
from tiny import left_padded, tiny_target

from eagle_hf.decoding import forward, loop
from eagle_hf.decoding.assistants import eagle

pytestmark = pytest.mark.usefixtures("fixed_sizes")


@pytest.fixture
def graphs(monkeypatch):
    """What the forwards were compiled to, in a compiler that has compiled nothing yet."""
    found = []

    def backend(graph, inputs):
        found.append(graph)
        return graph.forward

    def compiled_whole(function, device):
        return torch.compile(function, fullgraph=True, dynamic=False, backend=backend)

    torch._dynamo.reset()
    for module in (forward, eagle):
        monkeypatch.setattr(module, "compiled", compiled_whole)
    return found


@pytest.mark.parametrize("name", ["head", "window"])
def test_calls_of_many_lengths_share_their_graphs(target, trained_head, small_model, name, graphs):
    counts = []
    with compiling(assistant_of(name, trained_head, small_model), SHAPES["dynamic"]) as assistant:
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
def test_forwards_compile_whole_and_once(trained_head, small_model, name, graphs, monkeypatch):
    """No graph breaks (fullgraph), and nothing compiled anew once a run has seen its shapes.

    The target has never run before.
    """
    target = tiny_target()
    settings = dict(
        left_padded(target, [7, 3]), do_sample=False, eos_token_id=None, max_new_tokens=40
    )
    counts = []  # after every round
    original = loop.Run.round

    def counted(run):
        original(run)
        counts.append(len(graphs))

    monkeypatch.setattr(loop.Run, "round", counted)
    with compiling(assistant_of(name, trained_head, small_model), SHAPES["dynamic"]) as assistant:
        fast = target.generate(**settings, assistant_model=assistant)
    assert torch.equal(fast, target.generate(**settings))
    assert len(counts) > 8
    assert counts[1] == counts[-1] > 1, counts


@pytest.mark.parametrize("compile", [False, True])
def test_without_a_gpu_no_round_loads_the_compiler(target, head, compile, monkeypatch):
    def fail():
        pytest.fail("torch's compiler was called")

    monkeypatch.setattr(torch.compiler, "cudagraph_mark_step_begin", fail)
    with given_tree(head, replace(SHAPES["dynamic"], compile=compile)):
        target.generate(
            **left_padded(target, [7]),
            assistant_model=head,
            max_new_tokens=6,
            do_sample=False,
            eos_token_id=None,
        )
    assert head.last_run.rounds > 0
