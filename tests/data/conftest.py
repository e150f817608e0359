"""A byte tokenizer with a ChatML template, a tiny random target, and a target that says what it is told."""

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
START, END = 256, 257


class ScriptedTarget(LlamaForCausalLM):
    """`generate` draws each row's text from `script`, then ends the turn (unless `ends` is False)."""

    script, ends, calls = ("hello",), True, 0

    def generate(self, input_ids, max_new_tokens, pad_token_id, **kwargs):
        self.calls += 1
        picks = torch.randint(len(self.script), (len(input_ids),)).tolist()
        rows = [list(self.script[pick].encode()) + [END] * self.ends for pick in picks]
        rows = [(row + [pad_token_id] * max_new_tokens)[:max_new_tokens] for row in rows]
        return torch.cat([input_ids, torch.tensor(rows)], dim=1)


def tiny_config() -> LlamaConfig:
    return LlamaConfig(
        vocab_size=258,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=256,
        bos_token_id=START,
        eos_token_id=END,
        pad_token_id=END,
    )


@pytest.fixture
def tokenizer():
    """Token id = byte value; 256 and 257 are <|im_start|> and <|im_end|>."""
    alphabet, moved = {}, 0
    for byte in range(256):  # ByteLevel writes unprintable bytes as the letters from 256 on
        plain = 33 <= byte <= 126 or 161 <= byte <= 172 or byte >= 174
        alphabet[chr(byte) if plain else chr(256 + moved)] = byte
        moved += not plain
    backend = Tokenizer(models.BPE(vocab=alphabet, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(["<|im_start|>", "<|im_end|>"])
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<|im_start|>", eos_token="<|im_end|>"
    )
    wrapped.chat_template = CHATML
    return wrapped


@pytest.fixture
def target():
    torch.manual_seed(0)
    return LlamaForCausalLM(tiny_config()).eval()


@pytest.fixture
def scripted():
    torch.manual_seed(0)
    return ScriptedTarget(tiny_config()).eval()


@pytest.fixture
def make_prompts():
    def make(*turns: str, **extra) -> list[dict]:
        return [
            {"id": f"p{i}", "turns": turn.split("|"), "category": "c", "source": "s", **extra}
            for i, turn in enumerate(turns)
        ]

    return make
