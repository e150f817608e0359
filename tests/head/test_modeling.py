"""The head: TTT passes equal decoding, flags change something, no weight is the target's."""

import pytest
import torch
from drafting import drafter_of
from tiny import left_padded, tiny_head

from eagle_hf import TreeConfig
from eagle_hf.target import aux_layer_ids, target_states

FLAGS = [
    {},
    {"fc_norm": True},
    {"norm_output": True},
    {"fc_norm": True, "norm_output": True},
    {"norm_before_residual": True},
]


def decoded_logits(target, head, ids, drafts):
    """The head's logits at every depth of a forced chain `drafts`.

    ids [1, S] is the prompt; its last token is the root.
    """
    drafter = drafter_of(head, target, TreeConfig("chain", depth=len(drafts)))
    collected = []

    def propose(hidden, k):
        draft = drafts[len(collected)]
        collected.append(head.logits(hidden).reshape(-1))
        one_child = (*hidden.shape[:-1], 1)
        return torch.zeros(one_child), draft.expand(one_child)

    drafter.propose = propose
    aux, _ = target_states(target, ids[:, :-1], aux_layer_ids(target, head.config))
    drafter.start(
        ids[:, :-1], torch.ones_like(ids[:, :-1], dtype=torch.bool), aux, ids[:, -1], None
    )
    drafter.draft(ids[:, -1], max_depth=len(drafts))
    return collected


@pytest.mark.parametrize("flags", FLAGS, ids=str)
@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_ttt_pass_k_equals_decoding_at_depth_k(target, flags, implementation):
    head = tiny_head(target, **flags)
    head.set_attn_implementation(implementation)
    assert head.config._attn_implementation == implementation
    text = left_padded(target, [15])["input_ids"]
    embeddings = target.get_input_embeddings()(text[:, 1:])
    slot = 9
    with torch.no_grad():
        aux, _ = target_states(target, text[:, :-1], aux_layer_ids(target, head.config))
        passes = head(embeddings, aux, ttt_length=4)
        decoded = decoded_logits(target, head, text[:, : slot + 2], text[0, slot + 2 : slot + 6])
    for depth, logits in enumerate(decoded):
        unrolled = head.logits(passes[depth][0, slot])
        assert (unrolled - logits).abs().max() < 1e-9 * unrolled.abs().max()


@pytest.mark.parametrize("flags", FLAGS[1:], ids=str)
def test_every_flag_changes_the_output(target, flags):
    text = left_padded(target, [9])["input_ids"]
    embeddings = target.get_input_embeddings()(text)
    aux, _ = target_states(target, text, [2, 3, 4])
    plain = tiny_head(target)(embeddings, aux, ttt_length=2)[1]
    flagged = tiny_head(target, **flags)(embeddings, aux, ttt_length=2)[1]
    assert not torch.allclose(plain, flagged)


def test_the_heads_first_pass_is_causal(target, head):
    text = left_padded(target, [9])["input_ids"]
    embeddings = target.get_input_embeddings()(text)
    aux, _ = target_states(target, text, [2, 3, 4])
    changed = embeddings.clone()
    changed[:, 6] += 1
    before = head(embeddings, aux)[0]
    after = head(changed, aux)[0]
    assert torch.equal(before[:, :6], after[:, :6])
    assert not torch.allclose(before[:, 6:], after[:, 6:])


def test_the_head_holds_no_weight_of_the_target(target, head):
    names = [name for name, _ in head.named_parameters()]
    assert not any("embed" in name for name in names)
    storages = {p.data_ptr() for p in target.parameters()}
    assert storages.isdisjoint(p.data_ptr() for p in head.parameters())


def test_a_scale_of_the_embeddings_changes_nothing(target):
    """Gemma's embeddings are scaled here and unscaled in engines: the first norm removes it."""
    head = tiny_head(target)
    text = left_padded(target, [15])["input_ids"]
    raw = target.get_input_embeddings()(text)  # [1, S, H]
    with torch.no_grad():
        aux, _ = target_states(target, text, aux_layer_ids(target, head.config))
        unscaled = head(raw, aux)[0]
        scaled = head(raw * 32**0.5, aux)[0]
    assert torch.allclose(scaled, unscaled, atol=1e-3)
