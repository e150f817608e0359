"""A byte tokenizer with a ChatML template, tiny targets, and a target with a script."""

from typing import Any

import pytest
import torch
from chat_templates import byte_alphabet
from feature_folders import LAYERS, LENGTHS, TEMPLATE, float32_target
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from eagle_hf.data import capture_features

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
START = 256
END = 257


class ScriptedTarget(LlamaForCausalLM):
    """`generate` draws each row's text from `script`, and ends the turn where `ends` is True."""

    script = ("hello",)
    ends = True
    calls = 0

    def generate(self, input_ids, max_new_tokens, pad_token_id, **kwargs):
        self.calls += 1
        picks = torch.randint(len(self.script), (len(input_ids),)).tolist()
        rows = []
        for pick in picks:
            row = list(self.script[pick].encode())
            if self.ends:
                row.append(END)
            row += [pad_token_id] * max_new_tokens
            rows.append(row[:max_new_tokens])
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
def dataset_cache(tmp_path_factory, monkeypatch):
    """`datasets`, where it is installed, keeps what it loads for this test alone."""
    config = pytest.importorskip("datasets").config
    monkeypatch.setattr(config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("datasets"))


@pytest.fixture
def tokenizer():
    """Token id = byte value; 256 and 257 are <|im_start|> and <|im_end|>."""
    backend = Tokenizer(models.BPE(vocab=byte_alphabet(), merges=[]))
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
    """Prompts from their turns, which are joined by "|"."""

    def make(*joined_turns: str, **extra) -> list[dict]:
        prompts = []
        for number, turns in enumerate(joined_turns):
            prompt = {"id": f"p{number}", "turns": turns.split("|"), "category": "c", "source": "s"}
            prompts.append(prompt | extra)
        return prompts

    return make


@pytest.fixture(scope="session")
def capture_target():
    """A target of seven layers, whose features are captured."""
    return float32_target()


@pytest.fixture(scope="session")
def examples():
    generator = torch.Generator().manual_seed(0)
    rows = []
    for number, length in enumerate(LENGTHS):
        ids = torch.randint(31, (length,), generator=generator).tolist()
        mask = [0, 0] + [1] * (length - 2)
        rows.append({"id": f"c{number}", "input_ids": ids, "loss_mask": mask})
    return rows


@pytest.fixture
def write(capture_target, examples):
    """Captures into a folder, in three or four shards where a test does not say otherwise."""

    def call(url, rows=examples, target=capture_target, **settings):
        usual: dict[str, Any] = dict(
            layer_ids=LAYERS,
            template_sha256=TEMPLATE,
            dtype="float32",
            batch_tokens=40,
            shard_bytes=16000,
            progress=False,
        )
        return capture_features(target, rows, url, **(usual | settings))

    return call
