"""Batches for the tests of the loss, and how they compare gradients."""

import torch
from tiny import left_padded, teacher_batch

from eagle_hf.training.batches import collate
from eagle_hf.training.loss import ttt_loss


def conversations(target, lengths, prompt=4):
    """Rows of these lengths whose tokens from index `prompt` on are the response."""
    ids = left_padded(target, [max(lengths)] * len(lengths))["input_ids"]
    rows = []
    for row, length in zip(ids, lengths, strict=True):
        mask = [0] * prompt + [1] * (length - prompt)
        rows.append({"input_ids": row[:length].tolist(), "loss_mask": mask})
    return rows


def batch_of(target, lengths, prompt=4, packing=False):
    """A batch of conversations of these lengths."""
    return collate(conversations(target, lengths, prompt), packing)


def loss_of(target, head, batch, ttt_length=3, loss="ce"):
    """What `ttt_loss` returns for a batch."""
    inputs, teacher = teacher_batch(target, head, batch)
    return ttt_loss(head, head(**inputs, ttt_length=ttt_length), teacher, loss)


def gradients(target, head, batch, **settings):
    """The loss and every parameter's gradient."""
    head.zero_grad()
    loss = loss_of(target, head, batch, **settings)[0]
    loss.backward()
    return loss.detach(), {name: p.grad.clone() for name, p in head.named_parameters()}


def assert_equal_gradients(ours, theirs, bound):
    """Losses and gradients differ by at most this share; no gradient is zero."""
    our_loss, our_gradients = ours
    their_loss, their_gradients = theirs
    assert torch.allclose(our_loss, their_loss, rtol=bound)
    for name, gradient in their_gradients.items():
        assert gradient.norm() > 0, name
        assert (our_gradients[name] - gradient).norm() <= bound * gradient.norm(), name
