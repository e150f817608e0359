"""What is learnt, from whom, and where it begins and ends."""

import torch

from eagle_hf.target import target_logits, target_states
from eagle_hf.training.loss import ask_teacher, best_tokens, soft_cross_entropy, ttt_loss
from eagle_hf.training.batches import collate
from tiny import left_padded, tiny_head


def batch_of(target, lengths, prompt=4):
    """Rows of these lengths whose tokens from index `prompt` on are the response."""
    ids = left_padded(target, [max(lengths)] * len(lengths))["input_ids"]
    return collate([{"input_ids": row[:n].tolist(), "loss_mask": [0] * prompt + [1] * (n - prompt)} for row, n in zip(ids, lengths)])


def loss_of(target, head, batch, ttt_length=3):
    aux, states = target_states(target, batch["input_ids"], head.config.aux_layer_ids)
    teacher = ask_teacher(target, states, best_tokens(target, states, batch["labels"]), batch["labels"], head.draft_to_target)
    embeddings = target.get_input_embeddings()(batch["input_ids"].roll(-1, dims=1))
    return ttt_loss(head, head(embeddings, aux, ttt_length=ttt_length), teacher)


def test_soft_cross_entropy_by_hand():
    draft, target = torch.tensor([[0.0, 0.0]]), torch.tensor([[0.0, torch.tensor(3.0).log()]])
    assert torch.allclose(soft_cross_entropy(draft, target), torch.tensor([2.0]).log())  # -(1/4 + 3/4) log 1/2
    draft = torch.tensor([[0.0, torch.tensor(3.0).log()]])
    expected = -(0.25 * torch.tensor(0.25).log() + 0.75 * torch.tensor(0.75).log())
    assert torch.allclose(soft_cross_entropy(draft, target), expected)


def test_mask_moves_as_the_labels_do(target, head):
    """Response tokens 4..8 of nine: both the first and the last are learnt, at slot token - 2 - pass, nothing beyond."""
    batch = batch_of(target, [9])
    _, states = target_states(target, batch["input_ids"], [2, 3, 4])
    teacher = ask_teacher(target, states, best_tokens(target, states, batch["labels"]), batch["labels"], head.draft_to_target)
    assert teacher.columns.tolist() == [4, 5, 6, 7, 8]
    logits = target(batch["input_ids"]).logits[0]
    assert torch.equal(teacher.best, logits[[3, 4, 5, 6, 7]].argmax(-1))
    assert torch.allclose(teacher.logits, logits[3:8][:, head.draft_to_target])
    _, hits, trials = loss_of(target, head, batch, ttt_length=5)
    assert trials.tolist() == [5, 5, 5, 4, 3]  # pass 3 and 4 have no slot for token 4, and then 5


def test_loss_equals_a_loop_over_tokens_and_passes(target, head):
    batch = batch_of(target, [9, 7])
    loss, _, _ = loss_of(target, head, batch)
    expected = 0.0
    for row, length in enumerate([9, 7]):
        ids = batch["input_ids"][row : row + 1, :length]
        aux, _ = target_states(target, ids, head.config.aux_layer_ids)
        embeddings = target.get_input_embeddings()(ids[:, 1:])
        passes = head(torch.nn.functional.pad(embeddings, (0, 0, 0, 1)), aux, ttt_length=3)
        logits = target(ids).logits[0]
        for token in range(4, length):
            if logits[token - 1].argmax() not in head.draft_to_target:
                continue
            p = logits[token - 1, head.draft_to_target].softmax(-1)
            for k in range(3):
                if token - 2 - k >= 0:
                    expected -= 0.8**k * (p * head.logits(passes[k][0, token - 2 - k]).log_softmax(-1)).sum()
    assert torch.allclose(loss.float(), expected.float(), rtol=1e-5)


def test_a_padded_batch_gives_the_gradients_of_its_rows_alone(target):
    head, lengths = tiny_head(target), [12, 7, 9]
    batch = batch_of(target, lengths)
    loss_of(target, head, batch)[0].backward()
    together = {name: p.grad.clone() for name, p in head.named_parameters()}
    head.zero_grad()
    for row, length in enumerate(lengths):
        alone = {name: tensor[row : row + 1, :length] for name, tensor in batch.items() if name != "index"}
        loss_of(target, head, alone)[0].backward()
    for name, p in head.named_parameters():
        assert (p.grad - together[name]).norm() <= 1e-6 * together[name].norm(), name


def test_tokens_outside_the_draft_vocabulary_are_not_learnt(target):
    head = tiny_head(target)
    batch = batch_of(target, [12])
    _, states = target_states(target, batch["input_ids"], [2, 3, 4])
    teacher = ask_teacher(target, states, best_tokens(target, states, batch["labels"]), batch["labels"], head.draft_to_target)
    assert teacher.covered.tolist() == [token in head.draft_to_target for token in teacher.best.tolist()]
    teacher.covered[:] = False
    outputs = head(torch.randn(1, 12, 32).double(), torch.randn(1, 12, 96).double())
    assert ttt_loss(head, outputs, teacher)[0] == 0


def test_the_teacher_scales_its_logits_as_the_target_does():
    from transformers import Gemma2Config, Gemma2ForCausalLM

    config = Gemma2Config(vocab_size=31, hidden_size=32, intermediate_size=64, num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=2, head_dim=8, final_logit_softcapping=0.5)
    target = Gemma2ForCausalLM(config).eval()
    ids = torch.arange(3, 13)[None]
    _, states = target_states(target, ids, [1, 2, 3])
    some = torch.tensor([4, 9])
    assert torch.allclose(target_logits(target, states), target(ids).logits, atol=1e-6)
    assert torch.allclose(target_logits(target, states, some), target(ids).logits[..., some], atol=1e-6)
