"""Every class that transformers builds teaches right logits, or is refused by name."""

import pytest
import torch
from sweep import models
from sweep.trial import failed

from eagle_hf import new_head
from eagle_hf.target import aux_layer_ids, draft_vocab_logits, target_states

EXAMPLES = [{"id": "x", "input_ids": list(range(3, 33)), "loss_mask": [0, 0] + [1] * 28}]
BUILT = [entry for entry in models.all_entries() if entry.reason_unbuilt is None]


@pytest.mark.slow
@pytest.mark.parametrize("entry", BUILT, ids=[entry.name for entry in BUILT])
@torch.no_grad()
def test_a_class_teaches_right_logits_or_is_refused(entry):
    model = models.build(entry)
    try:
        head, _ = new_head(model, EXAMPLES, 20)
    except ValueError as refusal:
        assert failed(refusal, "", 0).kind == "refused"
        return
    ids = models.prompts(entry, model, [30])["input_ids"]
    aux, states = target_states(model, ids, aux_layer_ids(model, head.config))
    theirs = model(input_ids=ids, use_cache=False).logits[..., head.draft_to_target]
    ours = draft_vocab_logits(model, head.draft_to_target)(states).to(theirs.dtype)
    assert torch.allclose(ours, theirs, atol=1e-5 * float(theirs.abs().max()))
    embeddings = model.get_input_embeddings()(ids).to(head.dtype)
    output = head(embeddings, aux.to(head.dtype))[0]
    assert torch.isfinite(head.logits(output)).all()
