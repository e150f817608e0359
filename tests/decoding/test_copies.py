"""A round reads the prefix where it lies: no layer's keys or values are copied."""

from contextlib import nullcontext

import pytest
import torch
from tiny import left_padded
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from eagle_hf import SelfSpeculation, WindowedDraft
from eagle_hf.decoding import forward, loop
from eagle_hf.decoding.tree_attention import tree_attention

PREFIX = 197


def storages_of(values):
    """The addresses of the storages of all tensors in nested values."""
    addresses = set()
    for value in tree_leaves(values):
        if isinstance(value, torch.Tensor):
            addresses.add(value.untyped_storage().data_ptr())
    return addresses


class NewTensors(TorchDispatchMode):
    """Floating-point tensors that an operation returns in storage of its own.

    Those alone that have a dimension as long as the prefix or longer, and are no mask.
    """

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        outputs = function(*args, **kwargs)
        input_storages = storages_of((args, kwargs))
        for tensor in tree_leaves(outputs):
            if not isinstance(tensor, torch.Tensor) or not tensor.is_floating_point():
                continue
            if tensor.untyped_storage().data_ptr() in input_storages:
                continue  # a view
            is_mask = tensor.dim() == 4 and tensor.shape[1] == 1
            is_long = any(size >= PREFIX for size in tensor.shape)
            if is_long and not is_mask:
                self.found.append((str(function), list(tensor.shape)))
        return outputs


def copies(target, assistant, monkeypatch, lengths=(PREFIX,)):
    """What the rounds copy.

    The first is left out, which begins with the drafter's own prefill, and so are those in which a
    row leaves the batch.
    """
    found = []
    original = loop.Run.round

    def watched(run):
        before = run.sequences.in_batch
        with NewTensors() as mode:
            original(run)
        if run.sequences.in_batch == before:
            found.append(mode.found)

    monkeypatch.setattr(loop.Run, "round", watched)
    target.generate(
        **left_padded(target, lengths),
        assistant_model=assistant,
        max_new_tokens=40,
        do_sample=False,
        eos_token_id=None,
    )
    assert len(found) > 5
    return sum(found[1:], [])


@pytest.mark.parametrize("name", ["head", "model", "itself"])
def test_no_round_copies_the_prefix(target, trained_head, name, monkeypatch):
    assistant = {
        "head": trained_head,
        "model": WindowedDraft(target, window=None),
        "itself": SelfSpeculation(2, 300),
    }[name]
    assert copies(target, assistant, monkeypatch) == []
    monkeypatch.undo()
    assert copies(target, assistant, monkeypatch, [PREFIX, PREFIX + 7, PREFIX]) == []


def test_compiled_models_are_left_alone(target):
    """The registered attention disappears under torch.compile, as before the import."""
    with tree_attention():
        pass  # registers it
    module = target.model.layers[0].self_attn
    attention = ALL_ATTENTION_FUNCTIONS["sdpa"]
    query = torch.randn(1, 4, 3, 8)
    key = torch.randn(1, 2, 5, 8)

    def attend(query, key):
        output, _ = attention(module, query, key, key, None)
        return output

    compiled = torch.compile(attend, fullgraph=True, backend="eager")
    assert torch.allclose(compiled(query, key), attend(query, key))


def test_the_librarys_own_attention_would_copy_it_in_every_layer(target, trained_head, monkeypatch):
    monkeypatch.setattr(forward, "tree_attention", nullcontext)
    assert len(copies(target, trained_head, monkeypatch)) >= 5 * 2 * target.config.num_hidden_layers
