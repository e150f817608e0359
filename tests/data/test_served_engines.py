"""A real server answers: llama.cpp's, on the embedded target, over HTTP.

vLLM and `transformers serve` are asked in tests/engines, because they need environments of their
own.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest
from chat_templates import examples_of
from transformers import AutoTokenizer

from eagle_hf.data import (
    IdRecovery,
    ServingSettings,
    TemplateArguments,
    TurnStore,
    load_conversations,
    write_served_responses,
)
from eagle_hf.data.answers import RECOVERED, SERVED
from eagle_hf.target.gguf import embedded_smollm2

pytest.importorskip("aiohttp", reason="answers from servers need aiohttp")
pytest.importorskip("stamina", reason="answers from servers need stamina")

SECONDS = 120  # for one answer of a busy machine
PROMPTS = [
    {"id": "p0", "turns": ["What is 2 + 2?", "And one more?"], "category": "c", "source": "s"},
    {"id": "p1", "turns": ["Name a colour."], "category": "c", "source": "s"},
    {"id": "long", "turns": ["word " * 2000], "category": "c", "source": "s"},
]


@pytest.fixture(scope="module")
def embedded() -> Path:
    """The file of the embedded target."""
    try:
        return Path(embedded_smollm2())
    except ValueError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def url(embedded) -> Iterator[str]:
    """The address of llama.cpp's server, where the embedded target is called "smollm2"."""
    xllamacpp = pytest.importorskip("xllamacpp", reason="llama.cpp is packaged as xllamacpp")
    params = xllamacpp.CommonParams()
    params.model.path = str(embedded)
    params.model_alias = {"smollm2"}
    params.n_ctx = 1024
    params.n_parallel = 1
    params.warmup = False
    # Two threads wait for each other by spinning, which takes minutes on a busy machine.
    params.cpuparams.n_threads = 1
    params.cpuparams_batch.n_threads = 1
    server = xllamacpp.Server(params)
    yield server.listening_address
    del server


@pytest.fixture(scope="module")
def embedded_tokenizer(embedded):
    return AutoTokenizer.from_pretrained(embedded.parent, gguf_file=embedded.name)


def test_llamacpp_gives_the_ids_it_sampled_and_counts_our_prompt(url, embedded_tokenizer, tmp_path):
    stop = {embedded_tokenizer.eos_token_id}
    settings = ServingSettings(
        model="smollm2", max_new_tokens=8, concurrency=1, attempts=1, timeout_s=SECONDS
    )
    recovery = IdRecovery(embedded_tokenizer, stop)
    report = write_served_responses([url], PROMPTS, tmp_path, settings, recovery=recovery)
    assert (report.finished, report.without_ids) == (2, 0)
    [refused] = report.skipped
    assert refused.id == "long"
    assert "HTTP 400" in refused.reason
    with TurnStore(tmp_path) as store:
        turns = store.turns("p0") + store.turns("p1")
    assert len(turns) == 3
    for turn in turns:
        assert (turn.prompt_ids_from, turn.response_ids_from) == (RECOVERED, SERVED)
        assert len(turn.prompt_ids) == turn.prompt_tokens
        assert len(turn.response_ids) == turn.sampled_tokens
        assert (turn.response_ids[-1] in stop) == (turn.finish_reason == "stop")
    # What is learnt is what was sampled.
    rows = {row["id"]: row for row in load_conversations(tmp_path)}
    [example], skipped = examples_of(
        embedded_tokenizer, rows["p1"]["messages"], stop=stop, row=rows["p1"]
    )
    assert skipped == []
    assert example["input_ids"] == turns[2].prompt_ids + turns[2].response_ids
    assert sum(example["loss_mask"]) == turns[2].sampled_tokens


def test_llamacpp_s_template_is_given_our_arguments(url, embedded_tokenizer, tmp_path):
    embedded_tokenizer.chat_template = "{{ mood }}" + embedded_tokenizer.chat_template
    settings = ServingSettings(
        model="smollm2",
        max_new_tokens=4,
        attempts=1,
        timeout_s=SECONDS,
        template_arguments=TemplateArguments({"mood": "sad"}),
    )
    recovery = IdRecovery(embedded_tokenizer, {embedded_tokenizer.eos_token_id})
    report = write_served_responses([url], PROMPTS[1:2], tmp_path, settings, recovery=recovery)
    # Its template is another than ours now, and that is seen.
    assert (report.finished, report.without_ids) == (1, 1)
    with TurnStore(tmp_path) as store:
        [turn] = store.turns("p1")
    assert turn.prompt_ids is None
