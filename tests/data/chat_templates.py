"""Chat templates, read from the installed trl, with byte tokenizers that know their markers."""

import re
from importlib.util import find_spec
from pathlib import Path

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from eagle_hf.data import tokenize_conversations

MARKER = re.compile(r"<[|｜][^<>'\"{} \n]+>|<[a-z_]+[|]>|</?(?:start|end)_of_turn>|\[gMASK\]|<sop>")
DOUBLE_NEWLINE = ("Ċ", "Ċ")  # as ByteLevel writes two newlines

# The end-of-turn token of each family.
ENDS = {
    "cohere": "<|END_OF_TURN_TOKEN|>",
    "cohere2": "<|END_OF_TURN_TOKEN|>",
    "deepseek_r1_distill": "<｜end▁of▁sentence｜>",
    "deepseekv3": "<｜end▁of▁sentence｜>",
    "gemma": "<end_of_turn>",
    "gemma3": "<end_of_turn>",
    "gemma4_v5": "<turn|>",
    "glm4moe": "<|user|>",
    "gptoss": "<|return|>",
    "lfm2": "<|im_end|>",
    "lfm2_2_5": "<|im_end|>",
    "llama3": "<|eot_id|>",
    "llama3_1": "<|eot_id|>",
    "llama3_2": "<|eot_id|>",
    "muse_glimmer": "<|eot|>",
    "nemotron_3_nano": "<|im_end|>",
    "nemotron_3_ultra": "<|im_end|>",
    "phi3": "<|end|>",
    "phi3_5": "<|end|>",
    "qwen2_5": "<|im_end|>",
    "qwen3": "<|im_end|>",
    "qwen3_5_nothink": "<|im_end|>",
    "qwen3_5_think": "<|im_end|>",
    "qwen3_6": "<|im_end|>",
    "qwen3_8": "<|im_end|>",
    "qwen3_instruct_2507": "<|im_end|>",
}
ANEW = ("gptoss", "qwen3", "qwen3_5_nothink", "qwen3_5_think", "qwen3_6")  # render history anew
ELSEWHERE = ("deepseek_r1_distill", "deepseekv3", "nemotron_3_nano", "nemotron_3_ultra")
ONCE = ("phi3", "phi3_5")  # write the end of the text behind the last message alone
APPENDING = tuple(name for name in ENDS if name not in ANEW + ELSEWHERE + ONCE)


def byte_alphabet() -> dict[str, int]:
    """The letter that ByteLevel writes for each byte: itself, or one from 256 on if unprintable."""
    alphabet = {}
    moved = 0
    for byte in range(256):
        is_printable = 33 <= byte <= 126 or 161 <= byte <= 172 or byte >= 174
        if is_printable:
            alphabet[chr(byte)] = byte
        else:
            alphabet[chr(256 + moved)] = byte
            moved += 1
    return alphabet


class SlowTokenizer(PreTrainedTokenizerFast):
    """Tells no offsets."""

    is_fast = False


def template_source(name: str) -> str:
    """A template of trl's."""
    trl = find_spec("trl")
    if trl is None or trl.origin is None:
        pytest.skip("trl, whose chat templates these are, is not installed")
    file = Path(trl.origin).parent / "chat_templates" / f"{name}.jinja"
    if not file.exists():
        pytest.skip(f"this trl has no {file.name}")
    return file.read_text(encoding="utf-8")


def family_tokenizer(
    name: str,
    *,
    merges: bool = False,
    marked: bool = False,
    kind: type = PreTrainedTokenizerFast,
) -> PreTrainedTokenizerFast:
    """A byte tokenizer with a template and its special tokens; two newlines may be one token.

    `marked`: trl's variant of the template, which marks what an assistant says.
    """
    source = template_source(f"{name}_training" if marked else name)
    vocabulary = byte_alphabet()
    pairs = []
    if merges:
        vocabulary["".join(DOUBLE_NEWLINE)] = len(vocabulary)
        pairs.append(DOUBLE_NEWLINE)
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=pairs))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(sorted({*MARKER.findall(source), ENDS[name], "<bos>", "<eos>"}))
    tokenizer = kind(tokenizer_object=backend, bos_token="<bos>", eos_token="<eos>")
    if name.startswith("deepseek"):
        tokenizer.eos_token = ENDS[name]
    tokenizer.chat_template = source
    return tokenizer


def end_ids(name: str, tokenizer: PreTrainedTokenizerFast) -> set[int]:
    """The tokens that end a turn."""
    found = {tokenizer.convert_tokens_to_ids(ENDS[name]), tokenizer.eos_token_id}
    assert None not in found
    return found


def ask(text: str) -> dict:
    """A user's message."""
    return {"role": "user", "content": text}


def say(text: str, **more) -> dict:
    """An answer."""
    return {"role": "assistant", "content": text, **more}


THREE_TURNS = [ask("one?"), say("yes."), ask("two?"), say("no,\nnot two."), ask("3?"), say("so so")]


def examples_of(tokenizer, messages, *, stop, **settings):
    """(examples, skipped) of one conversation."""
    row = settings.pop("row", {})
    return tokenize_conversations(
        [{"id": "a", "messages": messages, **row}],
        tokenizer,
        eos_token_ids=stop,
        max_length=None,
        **settings,
    )


def learnt_text(tokenizer, example) -> str:
    """What is learnt of an example, as text."""
    ids = []
    for token, is_learnt in zip(example["input_ids"], example["loss_mask"], strict=True):
        if is_learnt:
            ids.append(token)
    return tokenizer.decode(ids, skip_special_tokens=False)
