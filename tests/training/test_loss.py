"""What is learnt, from whom, and where it begins and ends."""

import pytest
import torch
from tiny import left_padded, tiny_head, tiny_target, told
from torch.utils._python_dispatch import TorchDispatchMode

from eagle_hf.target import draft_rows, next_token_summary, target_logits, target_states
from eagle_hf.training import chunks
from eagle_hf.training.batches import collate
from eagle_hf.training.loss import (
    LOSSES,
    lk_hybrid,
    negative_log_alpha,
    soft_cross_entropy,
    ttt_loss,
)


@pytest.fixture(scope="module")
def target():
    return tiny_target()  # float64


@pytest.fixture(scope="module")
def head(target):
    return tiny_head(target)


def conversations(target, lengths, prompt=4):
    """Rows of these lengths whose tokens from index `prompt` on are the response."""
    ids = left_padded(target, [max(lengths)] * len(lengths))["input_ids"]
    return [
        {"input_ids": row[:n].tolist(), "loss_mask": [0] * prompt + [1] * (n - prompt)}
        for row, n in zip(ids, lengths)
    ]


def batch_of(target, lengths, prompt=4, packing=False):
    return collate(conversations(target, lengths, prompt), packing)


def loss_of(target, head, batch, ttt_length=3, loss="ce"):
    inputs, teacher = told(target, head, batch)
    return ttt_loss(head, head(**inputs, ttt_length=ttt_length), teacher, loss)


def gradients(target, head, batch, **settings):
    """The loss and every parameter's gradient."""
    head.zero_grad()
    loss = loss_of(target, head, batch, **settings)[0]
    loss.backward()
    return loss.detach(), {name: p.grad.clone() for name, p in head.named_parameters()}


def assert_equal_gradients(ours, theirs, bound):
    assert torch.allclose(ours[0], theirs[0], rtol=bound)
    for name, gradient in theirs[1].items():
        assert (
            gradient.norm() > 0 and (ours[1][name] - gradient).norm() <= bound * gradient.norm()
        ), name


THREE_TO_ONE = torch.tensor([[0.0, torch.tensor(3.0).log()]])


def test_soft_cross_entropy_by_hand():
    probs = torch.tensor([[0.25, 0.75]])
    assert torch.allclose(
        soft_cross_entropy(torch.zeros(1, 2), probs), torch.tensor([2.0]).log()
    )  # -(1/4 + 3/4) log 1/2
    expected = -(0.25 * torch.tensor(0.25).log() + 0.75 * torch.tensor(0.75).log())
    assert torch.allclose(soft_cross_entropy(THREE_TO_ONE, probs), expected)


def test_lk_losses_by_hand():
    """p = (0.5, 0.2), the rest outside the draft vocabulary; q = (0.25, 0.75): alpha = 0.25 + 0.2."""
    probs, alpha = torch.tensor([[0.5, 0.2]]), torch.tensor(0.45)
    assert torch.allclose(negative_log_alpha(THREE_TO_ONE, probs), -alpha.log())
    divergence = 0.5 * torch.tensor(0.5 / 0.25).log() + 0.2 * torch.tensor(0.2 / 0.75).log()
    trust = (-3 * alpha).exp()
    assert torch.allclose(lk_hybrid(THREE_TO_ONE, probs), trust * divergence + (1 - trust) * 0.55)


def test_lk_hybrid_holds_its_weight_constant():
    logits, probs = (
        THREE_TO_ONE.double().requires_grad_(),
        torch.tensor([[0.5, 0.2]], dtype=torch.float64),
    )
    (ours,) = torch.autograd.grad(lk_hybrid(logits, probs).sum(), logits)
    trust = torch.tensor(-3 * 0.45).exp()
    q = logits.softmax(-1)
    alpha = torch.minimum(q, probs).sum()
    (expected,) = torch.autograd.grad(
        trust * -(probs * q.log()).sum() + (1 - trust) * (1 - alpha), logits
    )
    assert torch.allclose(ours, expected)


def test_an_impossible_token_is_no_infinite_loss():
    logits = torch.tensor([[200.0, 0.0]], requires_grad=True)
    for name, loss in LOSSES.items():
        value = loss.formula(logits, torch.tensor([[0.0, 1.0]])).sum()
        assert (
            torch.isfinite(value) and torch.isfinite(torch.autograd.grad(value, logits)[0]).all()
        ), name


def test_mask_moves_as_the_labels_do(target, head):
    """Response tokens 4..8 of nine: both the first and the last are learnt, at slot token - 2 - pass, nothing beyond."""
    batch = batch_of(target, [9])
    _, teacher = told(target, head, batch)
    logits = target(batch["input_ids"]).logits[0, 3:8]
    covered = torch.isin(logits.argmax(-1), head.draft_to_target)
    assert teacher.slots.tolist() == (torch.arange(2, 7)[covered]).tolist() and covered.sum() > 2
    assert torch.equal(teacher.best, logits.argmax(-1)[covered])
    assert torch.allclose(teacher.ask(0, 99), logits[covered][:, head.draft_to_target])
    assert torch.allclose(teacher.normaliser.double(), logits[covered].logsumexp(-1))
    _, hits, trials = loss_of(target, head, batch, ttt_length=5)
    assert trials.tolist() == [5, 5, 5, 4, 3]  # pass 3 and 4 have no slot for token 4, and then 5


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("rows", [1, 3, 1000])
def test_loss_equals_a_loop_over_tokens_and_passes(target, head, monkeypatch, rows, loss):
    monkeypatch.setattr(chunks, "LOGITS_PER_CHUNK", rows * head.config.draft_vocab_size)
    conversations_of_two = [9, 7]
    expected, hits = 0.0, [0, 0, 0]
    batch = batch_of(target, conversations_of_two)
    for row, length in enumerate(conversations_of_two):
        ids = batch["input_ids"][row : row + 1, :length]
        aux, _ = target_states(target, ids, head.config.aux_layer_ids)
        embeddings = target.get_input_embeddings()(ids[:, 1:])
        passes = head(torch.nn.functional.pad(embeddings, (0, 0, 0, 1)), aux, ttt_length=3)
        logits = target(ids).logits[0]
        for token in range(4, length):
            best = logits[token - 1].argmax()
            if best not in head.draft_to_target:
                continue
            drafted = logits[token - 1, head.draft_to_target].softmax(-1)
            p = drafted if loss == "ce" else logits[token - 1].softmax(-1)[head.draft_to_target]
            for k in range(3):
                if token - 2 - k >= 0:
                    q = head.logits(passes[k][0, token - 2 - k])
                    expected = expected + 0.8**k * LOSSES[loss].formula(q[None], p[None])[0]
                    hits[k] += int(head.draft_to_target[q.argmax()] == best)
    head.zero_grad()
    expected.backward()
    by_hand = expected.detach(), {name: p.grad.clone() for name, p in head.named_parameters()}
    assert_equal_gradients(gradients(target, head, batch, loss=loss), by_hand, 1e-6)
    assert loss_of(target, head, batch)[1].tolist() == hits


def test_packed_conversations_give_the_loss_and_gradients_of_the_padded_batch(target):
    lengths = [12, 3, 7, 25]
    for dtype, bound in ((torch.float64, 1e-6), (torch.float32, 1e-5)):
        model = tiny_target(dtype=dtype)
        head = tiny_head(model)
        padded = gradients(model, head, batch_of(model, lengths, prompt=1), ttt_length=4)
        packed = gradients(
            model, head, batch_of(model, lengths, prompt=1, packing=True), ttt_length=4
        )
        assert_equal_gradients(packed, padded, bound)


def test_packed_conversations_cannot_see_each_other(target, head):
    batch = batch_of(target, [8, 6], packing=True)
    inputs, _ = told(target, head, batch)
    alone, _ = told(target, head, batch_of(target, [8, 6]))
    packed = head(**inputs, ttt_length=2)[1][0, 8:12]  # the last slots have no token to read
    assert torch.allclose(packed, head(**alone, ttt_length=2)[1][1, :4], atol=1e-9)


@pytest.mark.parametrize("packing", [False, True])
def test_checkpointed_passes_give_the_same_bits(target, packing):
    head = tiny_head(target).train()
    batch = batch_of(target, [12, 7], packing=packing)
    plain = gradients(target, head, batch)
    head.gradient_checkpointing_enable()
    again = gradients(target, head, batch)
    assert plain[0] == again[0] and all(
        torch.equal(plain[1][name], again[1][name]) for name in plain[1]
    )


class Largest(TorchDispatchMode):
    """Remembers the most elements of any tensor, and of any logits: what ends in a vocabulary and is no weight [H, V]."""

    def __init__(self, hidden_size, *vocabularies):
        super().__init__()
        self.hidden_size, self.vocabularies, self.any, self.logits = hidden_size, vocabularies, 0, 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **kwargs or {})
        for tensor in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(tensor, torch.Tensor):
                self.any = max(self.any, tensor.numel())
                if (
                    tensor.ndim
                    and tensor.shape[-1] in self.vocabularies
                    and tensor.shape[0] != self.hidden_size
                ):
                    self.logits = max(self.logits, tensor.numel())
        return result


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("loss", LOSSES)
def test_no_tensor_holds_all_logits(monkeypatch, loss, checkpointing):
    size, vocabulary, drafted = 200, 1009, 503
    monkeypatch.setattr(chunks, "LOGITS_PER_CHUNK", 10 * drafted)
    monkeypatch.setattr("eagle_hf.target.opening.LOGITS_AT_ONCE", 8 * vocabulary)
    target = tiny_target(vocab_size=vocabulary, hidden_size=16, head_dim=8, dtype=torch.float32)
    head, batch = tiny_head(target, drafted).train(), batch_of(target, [size], prompt=2)
    if checkpointing:
        head.gradient_checkpointing_enable()
    with Largest(16, vocabulary, drafted) as seen:
        gradients(target, head, batch, loss=loss)
    assert seen.any < size * drafted < size * vocabulary
    assert 0 < seen.logits <= max(10 * drafted, 8 * vocabulary)


def test_a_padded_batch_gives_the_gradients_of_its_rows_alone(target):
    head, lengths = tiny_head(target), [12, 7, 9]
    together = gradients(target, head, batch_of(target, lengths))
    head.zero_grad()
    for row in conversations(target, lengths):
        loss_of(target, head, collate([row]))[0].backward()
    for name, p in head.named_parameters():
        assert (p.grad - together[1][name]).norm() <= 1e-6 * together[1][name].norm(), name


@pytest.mark.parametrize("lora", [False, True])
def test_tokens_outside_the_draft_vocabulary_are_tried_and_not_learnt(target, lora):
    from peft import LoraConfig, get_peft_model

    head, batch = tiny_head(target), batch_of(target, [12])
    if lora:
        head = (
            get_peft_model(head, LoraConfig(r=2, target_modules=["lm_head"]))
            .double()
            .get_base_model()
        )
    logits = target(batch["input_ids"]).logits[0, 3:11]
    head.set_draft_vocabulary(
        torch.tensor([t for t in range(31) if t not in set(logits.argmax(-1).tolist())][:24])
    )
    loss, hits, trials = loss_of(target, head, batch)
    assert loss == 0 and hits.tolist() == [0, 0, 0] and trials.tolist() == [8, 8, 8]
    loss.backward()
    assert all(
        p.grad.abs().max() == 0 for p in head.parameters() if p.requires_grad
    )  # and the step goes on


def test_a_full_draft_vocabulary_leaves_nothing_out(target):
    head, batch = tiny_head(target, 31), batch_of(target, [12])
    _, teacher = told(target, head, batch)
    assert len(teacher.best) == 8 and not hasattr(head, "d2t")
    assert torch.allclose(teacher.probs(0, 8, True), teacher.probs(0, 8, False), atol=1e-6)


def test_an_lm_head_with_lora_learns_through_its_adapter(target):
    from peft import LoraConfig, get_peft_model

    head, batch = tiny_head(target), batch_of(target, [12, 9])
    lora = get_peft_model(
        head, LoraConfig(r=2, target_modules=["lm_head", "q_proj"], init_lora_weights=False)
    ).double()
    loss = loss_of(target, lora.get_base_model(), batch)[0]
    loss.backward()
    moved = {
        name.split(".")[-3]
        for name, p in lora.named_parameters()
        if p.grad is not None and p.grad.abs().sum() > 0
    }
    assert moved == {"lora_A", "lora_B"}
    merged = lora.merge_and_unload()
    assert torch.allclose(loss_of(target, merged, batch)[0], loss)


def test_the_teacher_scales_its_logits_as_the_target_does():
    from transformers import Gemma2Config, Gemma2ForCausalLM

    config = Gemma2Config(
        vocab_size=31,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        final_logit_softcapping=0.5,
    )
    target = Gemma2ForCausalLM(config).eval()
    ids = torch.arange(3, 13)[None]
    _, states = target_states(target, ids, [1, 2, 3])
    some = torch.tensor([4, 9])
    assert torch.allclose(target_logits(target, states), target(ids).logits, atol=1e-6)
    assert torch.allclose(
        draft_rows(target, some)(states), target(ids).logits[..., some], atol=1e-6
    )
    best, normaliser = next_token_summary(target, states[0])
    assert torch.equal(best, target(ids).logits[0].argmax(-1))
    assert torch.allclose(normaliser, target(ids).logits[0].logsumexp(-1))
