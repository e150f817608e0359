"""Tiny seeded models and what tests do with them."""

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from eagle_hf import Eagle3Config, Eagle3DraftHead, TreeConfig
from eagle_hf.target import draft_rows
from eagle_hf.training.batches import TargetStates
from eagle_hf.training.loss import ask_teacher, ttt_loss


def tiny_target(vocab_size=31, layers=7, dtype=torch.float64, seed=0, **config):
    """A random Llama whose next token is uncertain enough to sample and certain enough to draft."""
    torch.manual_seed(seed)
    settings = dict(
        vocab_size=vocab_size,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
        initializer_range=0.25,
    )
    return LlamaForCausalLM(LlamaConfig(**settings | config)).to(dtype).eval()


def tiny_head(target, draft_vocab_size=24, seed=1, **config):
    """A random head with every third token missing, drafting trees wide enough to be accepted by luck."""
    torch.manual_seed(seed)
    head = Eagle3DraftHead(
        Eagle3Config.from_target(target, draft_vocab_size=draft_vocab_size, **config)
    )
    ids = torch.randperm(target.config.vocab_size)[:draft_vocab_size].sort().values
    head.set_draft_vocabulary(ids)
    head.tree = TreeConfig(depth=4, top_k=6, nodes=24)
    return head.to(target.dtype).eval()


def left_padded(target, lengths, seed=0):
    """Random prompts of these lengths as one left-padded batch: {"input_ids", "attention_mask"}."""
    generator = torch.Generator().manual_seed(seed)
    longest = max(lengths)
    ids = torch.randint(3, target.config.vocab_size, (len(lengths), longest), generator=generator)
    mask = torch.tensor([[0] * (longest - n) + [1] * n for n in lengths])
    return {"input_ids": ids * mask, "attention_mask": mask}


def told(target, head, batch):
    """(what the head's forward takes, teacher) of a batch, as the Trainer makes them."""
    batch = batch | TargetStates(target, head.config.aux_layer_ids, 0.0, normaliser=True)(batch)
    embeddings = target.get_input_embeddings()(batch["input_ids"].roll(-1, dims=1)).detach()
    inputs = {"inputs_embeds": embeddings, "aux_hidden_states": batch["aux_hidden_states"]}
    if "position_ids" in batch:
        inputs["position_ids"] = batch["position_ids"]
    return inputs, ask_teacher(
        batch, draft_rows(target, head.draft_to_target), head.draft_to_target
    )


def quickly_trained(target, head, steps=150):
    """The head after some steps on the target's own samples: no good head, but one that gets drafts accepted."""
    torch.manual_seed(0)
    start = torch.randint(3, target.config.vocab_size, (32, 4))
    ids = target.generate(
        start, max_new_tokens=60, do_sample=True, top_k=0, temperature=0.7, eos_token_id=None
    )
    batch = {
        "input_ids": ids,
        "labels": ids,
        "attention_mask": torch.ones_like(ids),
        "index": torch.full((32,), -1),
    }
    inputs, teacher = told(target, head, batch)
    optimizer = torch.optim.Adam(head.parameters(), lr=3e-3)
    for _ in range(steps):
        loss, _, _ = ttt_loss(head, head(**inputs, ttt_length=3), teacher)
        optimizer.zero_grad()
        (loss / len(teacher.best)).backward()
        optimizer.step()
    return head.eval()


def word_tokenizer(vocab_size=31):
    """Words w0 w1 ... are tokens 0 1 ...; w2 ends a turn, w3 opens the user's and w4 the assistant's."""
    inner = Tokenizer(models.WordLevel({f"w{i}": i for i in range(vocab_size)}, unk_token="w0"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="w2", pad_token="w0")
    tokenizer.chat_template = (
        "{% for m in messages %}{{ 'w3 ' if m.role == 'user' else 'w4 ' }}{{ m.content }} w2 {% endfor %}"
        "{% if add_generation_prompt %}w4 {% endif %}"
    )
    return tokenizer
