"""A round reads the prefix where it lies: no layer's keys or values are copied."""

from contextlib import nullcontext

import pytest
import torch
from tiny import left_padded
from torch.utils._python_dispatch import TorchDispatchMode
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from eagle_hf import SelfSpeculation, WindowedDraft
from eagle_hf.decoding import forward, loop
from eagle_hf.decoding.tree_attention import tree_attention

PREFIX = 197


class NewTensors(TorchDispatchMode):
    """Floating-point tensors of its own that an operation returns, with a dimension as long as the prefix or longer."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        outputs = function(*args, **kwargs or {})
        inputs = {
            tensor.untyped_storage().data_ptr()
            for tensor in torch.utils._pytree.tree_leaves((args, kwargs))
            if isinstance(tensor, torch.Tensor)
        }
        for tensor in torch.utils._pytree.tree_leaves(outputs):
            if (
                isinstance(tensor, torch.Tensor)
                and tensor.is_floating_point()
                and tensor.untyped_storage().data_ptr() not in inputs
            ):
                is_mask = tensor.dim() == 4 and tensor.shape[1] == 1
                if any(size >= PREFIX for size in tensor.shape) and not is_mask:
                    self.found.append((str(function), list(tensor.shape)))
        return outputs


def copies(target, assistant, monkeypatch, lengths=(PREFIX,)):
    """What each round copies, but the first, which begins with the drafter's own prefill, and those in which a row leaves the batch."""
    found, original = [], loop.Run.round

    def watched(run):
        rows = run.sequences.in_batch
        with NewTensors() as mode:
            original(run)
        if run.sequences.in_batch == rows:
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
    return [copy for round in found[1:] for copy in round]


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
    query, key = torch.randn(1, 4, 3, 8), torch.randn(1, 2, 5, 8)
    attention = ALL_ATTENTION_FUNCTIONS["sdpa"]
    run = torch.compile(
        lambda query, key: attention(target.model.layers[0].self_attn, query, key, key, None)[0],
        fullgraph=True,
        backend="eager",
    )
    assert torch.allclose(
        run(query, key), attention(target.model.layers[0].self_attn, query, key, key, None)[0]
    )


def test_the_librarys_own_attention_would_copy_it_in_every_layer(target, trained_head, monkeypatch):
    monkeypatch.setattr(forward, "tree_attention", nullcontext)
    assert len(copies(target, trained_head, monkeypatch)) >= 5 * 2 * target.config.num_hidden_layers
