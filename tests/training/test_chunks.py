"""The LM head a chunk of tokens at a time: no tensor holds all logits, whatever the head is."""

import pytest
import torch
from loss_checks import batch_of, gradients, loss_of
from peft import LoraConfig, get_peft_model
from tiny import tiny_head, tiny_target
from torch.utils._python_dispatch import TorchDispatchMode

from eagle_hf.training import chunks
from eagle_hf.training.loss import LOSSES


@pytest.fixture(scope="module")
def target():
    return tiny_target()  # float64


class Largest(TorchDispatchMode):
    """Remembers the most elements of any tensor, and of any logits.

    Logits are what ends in a vocabulary and is no weight [H, V].
    """

    def __init__(self, hidden_size, *vocabularies):
        super().__init__()
        self.hidden_size = hidden_size
        self.vocabularies = vocabularies
        self.any = 0
        self.logits = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **kwargs or {})
        for tensor in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(tensor, torch.Tensor):
                self.measure(tensor)
        return result

    def measure(self, tensor):
        self.any = max(self.any, tensor.numel())
        ends_in_vocabulary = tensor.ndim > 0 and tensor.shape[-1] in self.vocabularies
        if ends_in_vocabulary and tensor.shape[0] != self.hidden_size:
            self.logits = max(self.logits, tensor.numel())


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("loss", LOSSES)
def test_no_tensor_holds_all_logits(monkeypatch, loss, checkpointing):
    size, vocabulary, drafted = 200, 1009, 503
    monkeypatch.setattr(chunks, "LOGITS_PER_CHUNK", 10 * drafted)
    monkeypatch.setattr("eagle_hf.target.logits.LOGITS_AT_ONCE", 8 * vocabulary)
    target = tiny_target(vocab_size=vocabulary, hidden_size=16, head_dim=8, dtype=torch.float32)
    head = tiny_head(target, drafted).train()
    batch = batch_of(target, [size], prompt=2)
    if checkpointing:
        head.gradient_checkpointing_enable()
    with Largest(16, vocabulary, drafted) as seen:
        gradients(target, head, batch, loss=loss)
    assert seen.any < size * drafted < size * vocabulary
    assert 0 < seen.logits <= max(10 * drafted, 8 * vocabulary)


@pytest.mark.parametrize("lora", [False, True])
def test_tokens_outside_the_draft_vocabulary_are_tried_and_not_learnt(target, lora):
    head = tiny_head(target)
    if lora:
        wrapped = get_peft_model(head, LoraConfig(r=2, target_modules=["lm_head"]))
        head = wrapped.double().get_base_model()
    batch = batch_of(target, [12])
    taught = target(batch["input_ids"]).logits[0, 3:11].argmax(-1).tolist()
    others = [token for token in range(31) if token not in taught]
    head.set_draft_vocabulary(torch.tensor(others[:24]))
    loss, hits, trials = loss_of(target, head, batch)
    assert loss == 0
    assert hits.tolist() == [0, 0, 0]
    assert trials.tolist() == [8, 8, 8]
    loss.backward()
    for parameter in head.parameters():  # and the step goes on
        if parameter.requires_grad:
            assert parameter.grad.abs().max() == 0


def test_an_lm_head_with_lora_learns_through_its_adapter(target):
    batch = batch_of(target, [12, 9])
    config = LoraConfig(r=2, target_modules=["lm_head", "q_proj"], init_lora_weights=False)
    lora = get_peft_model(tiny_head(target), config).double()
    loss = loss_of(target, lora.get_base_model(), batch)[0]
    loss.backward()
    moved = set()
    for name, parameter in lora.named_parameters():
        if parameter.grad is not None and parameter.grad.abs().sum() > 0:
            moved.add(name.split(".")[-3])
    assert moved == {"lora_A", "lora_B"}
    merged = lora.merge_and_unload()
    assert torch.allclose(loss_of(target, merged, batch)[0], loss)
