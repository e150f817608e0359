"""Tiny seeded models and what tests do with them."""

from collections.abc import Sequence
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from eagle_hf import Eagle3Config, Eagle3DraftHead, TreeConfig
from eagle_hf.target import draft_vocab_logits
from eagle_hf.training.batches import TargetStates
from eagle_hf.training.loss import ttt_loss
from eagle_hf.training.teacher import Teacher, ask_teacher

# Messages as words: w3 opens the user's turn, w4 the assistant's, w2 ends both.
CHAT_TEMPLATE = (
    "{% for m in messages %}"
    "{{ 'w3 ' if m.role == 'user' else 'w4 ' }}{{ m.content }} w2 "
    "{% endfor %}"
    "{% if add_generation_prompt %}w4 {% endif %}"
)


def tiny_target(
    vocab_size: int = 31,
    layers: int = 7,
    dtype: torch.dtype = torch.float64,
    seed: int = 0,
    **config: Any,
) -> LlamaForCausalLM:
    """A random Llama, whose next token is uncertain enough to sample and certain enough to draft.

    Args:
        vocab_size: The size of its vocabulary. Token 0 pads, 1 opens a text and 2 ends it.
        layers: The number of its layers.
        dtype: The dtype of its weights. float64 leaves no ties between tree and single token.
        seed: The seed of its weights.
        config: Other fields of LlamaConfig, in place of those below.
    """
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
    settings.update(config)
    return LlamaForCausalLM(LlamaConfig(**settings)).to(dtype).eval()


def tiny_head(
    target: PreTrainedModel, draft_vocab_size: int = 24, seed: int = 1, **config: Any
) -> Eagle3DraftHead:
    """A random head that lacks some of the target's tokens.

    Its trees are wide enough that some drafts are accepted by luck.

    Args:
        target: The model that it drafts for.
        draft_vocab_size: How many of the target's tokens it knows, drawn at random.
        seed: The seed of its weights and of its tokens.
        config: Other fields of Eagle3Config.
    """
    torch.manual_seed(seed)
    head = Eagle3DraftHead(
        Eagle3Config.from_target(target, draft_vocab_size=draft_vocab_size, **config)
    )
    ids = (
        torch.randperm(target.config.get_text_config().vocab_size)[:draft_vocab_size].sort().values
    )
    head.set_draft_vocabulary(ids)
    head.tree = TreeConfig(depth=4, top_k=6, nodes=24)
    return head.to(target.dtype).eval()


def left_padded(
    target: PreTrainedModel, lengths: Sequence[int], seed: int = 0
) -> dict[str, torch.Tensor]:
    """Random prompts of these lengths as one left-padded batch.

    Returns:
        {"input_ids": [B, S], "attention_mask": [B, S]}, where S is the longest length.
    """
    generator = torch.Generator().manual_seed(seed)
    shape = (len(lengths), max(lengths))
    ids = torch.randint(3, target.config.vocab_size, shape, generator=generator)  # [B, S]
    mask = torch.zeros_like(ids)
    for row, length in enumerate(lengths):
        mask[row, shape[1] - length :] = 1
    return {"input_ids": ids * mask, "attention_mask": mask}


def teacher_batch(
    target: PreTrainedModel, head: Eagle3DraftHead, batch: dict[str, torch.Tensor]
) -> tuple[dict[str, torch.Tensor], Teacher]:
    """(inputs of the head's forward, teacher) of a batch, as the Trainer makes them."""
    states = TargetStates(target, head.config.aux_layer_ids, 0.0, normaliser=True)
    batch = batch | states.run_target(batch)
    next_ids = batch["input_ids"].roll(-1, dims=1)  # [B, S], slot p holds token p + 1
    inputs = {
        "inputs_embeds": target.get_input_embeddings()(next_ids).detach(),  # [B, S, H]
        "aux_hidden_states": batch["aux_hidden_states"],
    }
    if "position_ids" in batch:
        inputs["position_ids"] = batch["position_ids"]
    lm_head = draft_vocab_logits(target, head.draft_to_target)
    return inputs, ask_teacher(batch, lm_head, head.draft_to_target)


def quickly_trained(
    target: PreTrainedModel, head: Eagle3DraftHead, steps: int = 150
) -> Eagle3DraftHead:
    """The head after some steps on the target's own samples.

    It is not a good head, but some of its drafts are accepted.
    """
    torch.manual_seed(0)
    start = torch.randint(3, target.config.get_text_config().vocab_size, (32, 4))
    ids = target.generate(
        start, max_new_tokens=60, do_sample=True, top_k=0, temperature=0.7, eos_token_id=None
    )
    batch = {
        "input_ids": ids,
        "labels": ids,
        "attention_mask": torch.ones_like(ids),
        "index": torch.full((32,), -1),
    }
    inputs, teacher = teacher_batch(target, head, batch)
    optimizer = torch.optim.Adam(head.parameters(), lr=3e-3)
    for _ in range(steps):
        loss, _, _ = ttt_loss(head, head(**inputs, ttt_length=3), teacher)
        optimizer.zero_grad()
        (loss / len(teacher.best)).backward()
        optimizer.step()
    return head.eval()


def word_tokenizer(vocab_size: int = 31) -> PreTrainedTokenizerFast:
    """A tokenizer whose words w0 w1 ... are the tokens 0 1 ..., with a chat template."""
    words = {f"w{token}": token for token in range(vocab_size)}
    inner = Tokenizer(models.WordLevel(words, unk_token="w0"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="w2", pad_token="w0")
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def letter_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer whose tokens 5 to 30 are the letters a to z, so that any text can be stopped at.

    Stop strings need tokens that can be cut.
    """
    words = {"<0>": 0, "<1>": 1, "<2>": 2, "<3>": 3, "<4>": 4}
    for index, letter in enumerate("abcdefghijklmnopqrstuvwxyz"):
        words[letter] = 5 + index
    inner = Tokenizer(models.BPE(vocab=words, merges=[]))
    inner.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<2>", pad_token="<0>")
