"""What is learnt, from whom, and where it begins and ends."""

import pytest
import torch
from loss_checks import assert_equal_gradients, batch_of, conversations, gradients, loss_of
from tiny import teacher_batch, tiny_head, tiny_target
from torch.nn import functional as F

from eagle_hf.target import draft_vocab_logits, next_token_summary, target_logits, target_states
from eagle_hf.training import chunks
from eagle_hf.training.batches import collate
from eagle_hf.training.loss import LOSSES, lk_hybrid, negative_log_alpha, soft_cross_entropy

THREE_TO_ONE = torch.tensor([[0.0, torch.tensor(3.0).log()]])  # q = (0.25, 0.75)


@pytest.fixture(scope="module")
def target():
    return tiny_target()  # float64


@pytest.fixture(scope="module")
def head(target):
    return tiny_head(target)


def test_soft_cross_entropy_by_hand():
    probs = torch.tensor([[0.25, 0.75]])
    even = soft_cross_entropy(torch.zeros(1, 2), probs)
    assert torch.allclose(even, torch.tensor([2.0]).log())  # -(1/4 + 3/4) log 1/2
    expected = -(0.25 * torch.tensor(0.25).log() + 0.75 * torch.tensor(0.75).log())
    assert torch.allclose(soft_cross_entropy(THREE_TO_ONE, probs), expected)


def test_lk_losses_by_hand():
    """p = (0.5, 0.2), the rest outside the draft vocabulary; q = (0.25, 0.75).

    alpha = 0.25 + 0.2.
    """
    probs = torch.tensor([[0.5, 0.2]])
    alpha = torch.tensor(0.45)
    assert torch.allclose(negative_log_alpha(THREE_TO_ONE, probs), -alpha.log())
    divergence = 0.5 * torch.tensor(0.5 / 0.25).log() + 0.2 * torch.tensor(0.2 / 0.75).log()
    trust = (-3 * alpha).exp()
    assert torch.allclose(lk_hybrid(THREE_TO_ONE, probs), trust * divergence + (1 - trust) * 0.55)


def test_lk_hybrid_holds_its_weight_constant():
    logits = THREE_TO_ONE.double().requires_grad_()
    probs = torch.tensor([[0.5, 0.2]], dtype=torch.float64)
    (ours,) = torch.autograd.grad(lk_hybrid(logits, probs).sum(), logits)
    trust = torch.tensor(-3 * 0.45).exp()
    q = logits.softmax(-1)
    alpha = torch.minimum(q, probs).sum()
    by_hand = trust * -(probs * q.log()).sum() + (1 - trust) * (1 - alpha)
    (expected,) = torch.autograd.grad(by_hand, logits)
    assert torch.allclose(ours, expected)


@pytest.mark.parametrize("loss", LOSSES)
def test_an_impossible_token_is_no_infinite_loss(loss):
    logits = torch.tensor([[200.0, 0.0]], requires_grad=True)
    value = LOSSES[loss].formula(logits, torch.tensor([[0.0, 1.0]])).sum()
    assert torch.isfinite(value)
    assert torch.isfinite(torch.autograd.grad(value, logits)[0]).all()


def test_mask_moves_as_the_labels_do(target, head):
    """The drawing of loss.py: response tokens 4 to 8 of nine.

    Both the first and the last are learnt, at slot token - 2 - pass, nothing beyond.
    """
    batch = batch_of(target, [9])
    _, teacher = teacher_batch(target, head, batch)
    logits = target(batch["input_ids"]).logits[0, 3:8]
    covered = torch.isin(logits.argmax(-1), head.draft_to_target)
    assert covered.sum() > 2
    assert teacher.slots.tolist() == torch.arange(2, 7)[covered].tolist()
    assert torch.equal(teacher.best, logits.argmax(-1)[covered])
    assert torch.allclose(teacher.logits(0, 99), logits[covered][:, head.draft_to_target])
    assert torch.allclose(teacher.log_normaliser.double(), logits[covered].logsumexp(-1))
    _, _, trials = loss_of(target, head, batch, ttt_length=5)
    assert trials.tolist() == [5, 5, 5, 4, 3]  # pass 3 and 4 have no slot for token 4, and then 5


def losses_by_hand(target, head, ids, loss):
    """(loss, hits of each pass) of one conversation [1, S] with four prompt tokens, by loops."""
    aux, _ = target_states(target, ids, head.config.aux_layer_ids)
    embeddings = F.pad(target.get_input_embeddings()(ids[:, 1:]), (0, 0, 0, 1))
    passes = head(embeddings, aux, ttt_length=3)
    logits = target(ids).logits[0]
    total = 0.0
    hits = torch.zeros(3, dtype=torch.long)
    for token in range(4, ids.shape[1]):
        taught = logits[token - 1]
        best = taught.argmax()
        if best not in head.draft_to_target:
            continue
        if loss == "ce":
            p = taught[head.draft_to_target].softmax(-1)
        else:
            p = taught.softmax(-1)[head.draft_to_target]
        for k in range(3):
            slot = token - 2 - k
            if slot >= 0:
                q = head.logits(passes[k][0, slot])
                total = total + 0.8**k * LOSSES[loss].formula(q[None], p[None])[0]
                hits[k] += head.draft_to_target[q.argmax()] == best
    return total, hits


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("chunk", [1, 3, 1000])
def test_loss_equals_a_loop_over_tokens_and_passes(target, head, monkeypatch, chunk, loss):
    monkeypatch.setattr(chunks, "LOGITS_PER_CHUNK", chunk * head.config.draft_vocab_size)
    batch = batch_of(target, [9, 7])
    expected = 0.0
    hits = torch.zeros(3, dtype=torch.long)
    for row, length in enumerate([9, 7]):
        ids = batch["input_ids"][row : row + 1, :length]
        row_loss, row_hits = losses_by_hand(target, head, ids, loss)
        expected = expected + row_loss
        hits += row_hits
    head.zero_grad()
    expected.backward()
    by_hand = expected.detach(), {name: p.grad.clone() for name, p in head.named_parameters()}
    assert_equal_gradients(gradients(target, head, batch, loss=loss), by_hand, 1e-6)
    assert loss_of(target, head, batch)[1].tolist() == hits.tolist()


@pytest.mark.parametrize("dtype, bound", [(torch.float64, 1e-6), (torch.float32, 1e-5)], ids=str)
def test_packed_conversations_give_the_loss_and_gradients_of_the_padded_batch(dtype, bound):
    model = tiny_target(dtype=dtype)
    head = tiny_head(model)
    padded = batch_of(model, [12, 3, 7, 25], prompt=1)
    packed = batch_of(model, [12, 3, 7, 25], prompt=1, packing=True)
    theirs = gradients(model, head, padded, ttt_length=4)
    ours = gradients(model, head, packed, ttt_length=4)
    assert_equal_gradients(ours, theirs, bound)


def test_packed_conversations_cannot_see_each_other(target, head):
    inputs, _ = teacher_batch(target, head, batch_of(target, [8, 6], packing=True))
    alone, _ = teacher_batch(target, head, batch_of(target, [8, 6]))
    packed = head(**inputs, ttt_length=2)[1][0, 8:12]  # the last slots have no token to read
    assert torch.allclose(packed, head(**alone, ttt_length=2)[1][1, :4], atol=1e-9)


@pytest.mark.parametrize("packing", [False, True])
def test_checkpointed_passes_give_the_same_bits(target, packing):
    head = tiny_head(target).train()
    batch = batch_of(target, [12, 7], packing=packing)
    loss, plain = gradients(target, head, batch)
    head.gradient_checkpointing_enable()
    checkpointed_loss, checkpointed = gradients(target, head, batch)
    assert loss == checkpointed_loss
    for name, gradient in plain.items():
        assert torch.equal(gradient, checkpointed[name]), name


def test_a_padded_batch_gives_the_gradients_of_its_rows_alone(target):
    head = tiny_head(target)
    lengths = [12, 7, 9]
    _, together = gradients(target, head, batch_of(target, lengths))
    head.zero_grad()
    for conversation in conversations(target, lengths):
        loss_of(target, head, collate([conversation]))[0].backward()
    for name, parameter in head.named_parameters():
        difference = parameter.grad - together[name]
        assert difference.norm() <= 1e-6 * together[name].norm(), name


def test_a_full_draft_vocabulary_leaves_nothing_out(target):
    head = tiny_head(target, 31)
    _, teacher = teacher_batch(target, head, batch_of(target, [12]))
    assert len(teacher.best) == 8
    assert not hasattr(head, "d2t")
    assert torch.allclose(teacher.probs(0, 8, True), teacher.probs(0, 8, False), atol=1e-6)


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
    logits = target(ids).logits
    _, states = target_states(target, ids, [1, 2, 3])
    some = torch.tensor([4, 9])
    assert torch.allclose(target_logits(target, states), logits, atol=1e-6)
    assert torch.allclose(draft_vocab_logits(target, some)(states), logits[..., some], atol=1e-6)
    best, normaliser = next_token_summary(target, states[0])
    assert torch.equal(best, logits[0].argmax(-1))
    assert torch.allclose(normaliser, logits[0].logsumexp(-1))
