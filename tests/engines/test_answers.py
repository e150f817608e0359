"""Servers of other projects answer: `transformers serve` and vLLM, on a tiny target.

llama.cpp's server needs no environment of its own: tests/data/test_served_engines.py.
"""

import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import pytest
import torch
from driving import environment, need
from environments import program
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from eagle_hf.data import (
    IdRecovery,
    ServingSettings,
    TemplateArguments,
    TurnStore,
    load_conversations,
    prepare_examples,
    write_responses,
    write_served_responses,
)
from eagle_hf.data.answers import RECOVERED, SERVED

pytestmark = pytest.mark.engine

PATIENCE_S = 600
PROMPTS = [
    {"id": "p0", "turns": ["What is 2 + 2?", "And one more?"], "category": "c", "source": "s"},
    {"id": "p1", "turns": ["Name a colour."], "category": "c", "source": "s"},
]
TEMPLATE = (
    "{{ mood | default('') }}{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
    "{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """A token for each byte, and the two marks of ChatML."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE(vocab={one: n for n, one in enumerate(alphabet)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(["<|im_start|>", "<|im_end|>"])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|im_end|>")
    tokenizer.chat_template = TEMPLATE
    return tokenizer


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A target whose answers are random, with a tokenizer of bytes."""
    path = tmp_path_factory.mktemp("served") / "tiny"
    tokenizer = byte_tokenizer()
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=512,
        eos_token_id=tokenizer.eos_token_id,
        initializer_range=0.1,
    )
    LlamaForCausalLM(config).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


@contextmanager
def served(engine: str, folder: Path, log: Path, *command: str) -> Iterator[str]:
    """The address of a server that runs inside the block."""
    need(engine)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with open(log, "w") as file:
        server = subprocess.Popen(
            [str(program(engine, command[0])), *command[1:], "--port", str(port)],
            env=environment(engine),
            stdout=file,
            stderr=file,
        )
    url = f"http://127.0.0.1:{port}"
    try:
        wait_for(server, url, log)
        yield url
    finally:
        server.terminate()
        server.wait(60)


def wait_for(server: subprocess.Popen, url: str, log: Path) -> None:
    """Return when the server answers."""
    until = time.monotonic() + PATIENCE_S
    while time.monotonic() < until and server.poll() is None:
        try:
            urlopen(f"{url}/v1/models", timeout=5).close()
            return
        except (URLError, TimeoutError, ConnectionError):
            time.sleep(0.5)
    pytest.fail(f"no answer from the server:\n{log.read_text()[-4000:]}")


def opened(folder: Path) -> tuple:
    """(target, tokenizer) of the folder."""
    tokenizer = byte_tokenizer()
    return LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32), tokenizer


def stored(folder: Path) -> list:
    """All finished turns."""
    turns = []
    with TurnStore(folder) as store:
        for prompt in PROMPTS:
            turns += store.turns(prompt["id"])
    return turns


def settings_for(folder: Path, **changes) -> ServingSettings:
    arguments = TemplateArguments({"mood": "sad"})
    usual = dict(model=str(folder), max_new_tokens=8, concurrency=2, template_arguments=arguments)
    return ServingSettings(**(usual | changes))


def test_transformers_serves_what_is_asked_of_it(folder, tmp_path):
    target, tokenizer = opened(folder)
    recovery = IdRecovery(tokenizer, {tokenizer.eos_token_id})
    command = ("transformers", "serve", str(folder), "--host", "127.0.0.1", "--device", "cpu")
    with served("transformers", folder, tmp_path / "log", *command) as url:
        report = write_served_responses(
            [url], PROMPTS, tmp_path / "answers", settings_for(folder), recovery=recovery
        )
    assert report.failed == []
    turns = stored(tmp_path / "answers")
    for turn in turns:
        assert turn.prompt_ids_from == RECOVERED
        assert len(turn.prompt_ids) == turn.prompt_tokens
        assert tokenizer.decode(turn.prompt_ids).startswith("sad")
        assert turn.sampled_tokens <= 8
    write_responses(
        target,
        tokenizer,
        PROMPTS,
        tmp_path / "here",
        max_new_tokens=8,
        template_arguments=TemplateArguments({"mood": "sad"}),
    )
    assert stored(tmp_path / "here")[0].prompt_ids == turns[0].prompt_ids


def test_vllm_gives_the_ids_that_it_read_and_sampled(folder, tmp_path):
    target, tokenizer = opened(folder)
    arguments = TemplateArguments({"mood": "sad"})
    command = ("vllm", "serve", str(folder), "--dtype", "float32", "--max-model-len", "256")
    command += ("--enforce-eager", "--host", "127.0.0.1")
    with served("vllm", folder, tmp_path / "log", *command) as url:
        report = write_served_responses([url], PROMPTS, tmp_path / "answers", settings_for(folder))
    assert (report.finished, report.without_ids, report.recovered) == (2, 0, 0)
    write_responses(
        target,
        tokenizer,
        PROMPTS,
        tmp_path / "here",
        max_new_tokens=8,
        template_arguments=arguments,
    )
    for there, here in zip(stored(tmp_path / "answers"), stored(tmp_path / "here"), strict=True):
        assert (there.prompt_ids_from, there.response_ids_from) == (SERVED, SERVED)
        assert (there.prompt_ids, there.response_ids) == (here.prompt_ids, here.response_ids)
    examples, skipped = prepare_examples(
        target, tokenizer, load_conversations(tmp_path / "answers")
    )
    assert skipped == []
    assert sum(sum(example["loss_mask"]) for example in examples) == report.sampled_tokens
