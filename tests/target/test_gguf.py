"""GGUF files as targets: converted once, recognised by content, opened only where needed."""

import hashlib
import json
import logging
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from gguf import GGUFWriter
from safetensors.torch import load_file, save_file
from tiny import tiny_head
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase
from transformers.utils import logging as spoken

from eagle_hf import load_target
from eagle_hf.hub.check import check
from eagle_hf.target.gguf import SMOLLM2, read_gguf_config, resolve

WORDS = ["ab", "cd", *(chr(code) for code in range(ord("!"), ord("~")))]
TEMPLATE = "{% for message in messages %}{{ message.content }}{% endfor %}"
LAYER = {
    "attn_norm": (64,),
    "attn_q": (64, 64),
    "attn_k": (32, 64),
    "attn_v": (32, 64),
    "attn_output": (64, 64),
    "ffn_norm": (64,),
    "ffn_gate": (128, 64),
    "ffn_up": (128, 64),
    "ffn_down": (64, 128),
}
IDS = torch.arange(3, 12)[None]
LOGGER = "eagle_hf.target.gguf.copies"


def write_gguf(file, seed=0):
    """A random Llama of 8 layers and 64 dimensions, in float32, with a tokenizer of characters."""
    writer = GGUFWriter(file, "llama")
    writer.add_block_count(8)
    writer.add_context_length(256)
    writer.add_embedding_length(64)
    writer.add_feed_forward_length(128)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(WORDS)
    writer.add_token_merges(["a b", "c d"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_chat_template(TEMPLATE)
    random = np.random.default_rng(seed)
    shapes = {"token_embd": (len(WORDS), 64), "output": (len(WORDS), 64), "output_norm": (64,)}
    for layer in range(8):
        shapes |= {f"blk.{layer}.{name}": shape for name, shape in LAYER.items()}
    for name, shape in shapes.items():
        mean = 1.0 if "norm" in name else 0.0
        writer.add_tensor(f"{name}.weight", random.normal(mean, 0.25, shape).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache folder."""
    monkeypatch.setenv("EAGLE_HF_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def file(tmp_path, cache):
    return write_gguf(tmp_path / "tiny.gguf")


def logits(target):
    return target(IDS).logits


def copies(cache):
    return list(cache.iterdir()) if cache.is_dir() else []


def said(caplog):
    """The messages about conversions."""
    return [record.getMessage() for record in caplog.records if record.name == LOGGER]


class AtAnnouncement(logging.Handler):
    """Does something as soon as a conversion is announced."""

    def __init__(self, action):
        super().__init__()
        self.action = action

    def emit(self, record):
        self.action()


@pytest.fixture
def at_announcement(request):
    """at_announcement(action): `action` is called as soon as a conversion is announced."""
    logger = logging.getLogger(LOGGER)

    def watch(action):
        handler = AtAnnouncement(action)
        logger.addHandler(handler)
        request.addfinalizer(partial(logger.removeHandler, handler))

    return watch


def test_a_copy_is_what_transformers_reads_in_the_file(file):
    target, tokenizer = load_target(file, dtype=torch.float32)
    options = {"gguf_file": file.name}
    theirs = AutoModelForCausalLM.from_pretrained(file.parent, dtype=torch.float32, **options)
    assert torch.equal(logits(target), logits(theirs))
    assert tokenizer.chat_template == TEMPLATE
    direct = AutoTokenizer.from_pretrained(file.parent, **options)
    assert tokenizer("abba").input_ids == direct("abba").input_ids
    assert {parameter.dtype for parameter in target.parameters()} == {torch.float32}


def test_a_file_is_converted_once_and_recognised_after_a_move(file, cache, tmp_path, caplog):
    first = resolve(file)
    (tmp_path / "elsewhere").mkdir()
    moved = shutil.move(file, tmp_path / "elsewhere" / "other name.gguf")
    assert resolve(moved) == first
    assert copies(cache) == [Path(first)]
    assert len(said(caplog)) == 1


def test_a_changed_file_is_converted_anew(file, cache):
    before, _ = load_target(file)
    size = file.stat().st_size
    write_gguf(file, seed=1)
    assert file.stat().st_size == size
    after, _ = load_target(file)
    assert not torch.equal(logits(before), logits(after))
    assert len(copies(cache)) == 2


def test_a_content_is_hashed_once_in_a_process(file, monkeypatch):
    hashed = []
    original = hashlib.file_digest

    def counted(*arguments):
        hashed.append(arguments)
        return original(*arguments)

    monkeypatch.setattr(hashlib, "file_digest", counted)
    load_target(file)
    load_target(file)
    assert len(hashed) == 1


def test_room_and_place_are_said_before_the_conversion(file, cache, caplog, at_announcement):
    seen = []
    at_announcement(lambda: seen.append(copies(cache)))
    target, _ = load_target(file)
    needed = 4 * sum(parameter.numel() for parameter in target.parameters())
    (line,) = said(caplog)
    assert seen == [[]]
    assert "\n" not in line
    assert " once: " in line
    assert f"{needed / 1e6:.1f} MB" in line
    assert str(copies(cache)[0]) in line
    assert "EAGLE_HF_CACHE" in line


def test_a_disk_without_room_is_refused_before_any_work(file, cache, caplog, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda place: SimpleNamespace(free=200_000))
    expected = rf"needs 1\.2 MB of disk space.*{cache} has 0\.2 MB free.*EAGLE_HF_CACHE"
    with pytest.raises(ValueError, match=expected):
        load_target(file)
    assert copies(cache) == []
    assert not said(caplog)


def test_a_cache_that_cannot_be_written_is_said_and_does_without(file, cache, caplog):
    cache.write_text("a file, which holds no folders")
    first = resolve(file)
    assert resolve(file) == first
    assert torch.isfinite(logits(load_target(file)[0])).all()
    (line,) = said(caplog)
    assert f"{cache} cannot be written" in line
    assert "again next time" in line
    assert "\n" not in line


def test_a_process_says_one_line_and_takes_its_own_copy_with_it(file, cache):
    cache.write_text("a file, which holds no folders")
    program = f"from eagle_hf.target.gguf import resolve; print(resolve({str(file)!r}))"
    command = [sys.executable, "-c", program]
    ended = subprocess.run(command, capture_output=True, text=True, check=True)
    (line,) = ended.stderr.splitlines()
    assert line.startswith(f"converting {file}")
    assert "tiny" in ended.stdout
    assert not Path(ended.stdout.strip()).parent.exists()


def test_transformers_speaks_again_after_a_conversion(file):
    def voice():
        return spoken.get_verbosity(), spoken.is_progress_bar_enabled(), sys.stderr

    before = voice()
    resolve(file)
    assert voice() == before


def test_a_copy_that_another_process_finished_first_is_taken(file, cache, at_announcement):
    name = Path(resolve(file)).name
    theirs = shutil.move(cache / name, cache.parent / "theirs")
    at_announcement(lambda: shutil.copytree(theirs, cache / name))
    assert resolve(file) == str(cache / name)
    assert copies(cache) == [cache / name]
    assert torch.isfinite(logits(load_target(file)[0])).all()


@pytest.mark.parametrize("is_killed", [False, True])
def test_an_interrupted_conversion_leaves_no_copy(file, cache, tmp_path, monkeypatch, is_killed):
    def interrupt(*arguments, **options):
        shutil.copytree(cache, tmp_path / "at that moment")
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(PreTrainedTokenizerBase, "save_pretrained", interrupt)
        with pytest.raises(KeyboardInterrupt):
            load_target(file)
    assert copies(cache) == []
    if is_killed:  # nothing is cleared up then
        shutil.copytree(tmp_path / "at that moment", cache, dirs_exist_ok=True)
        assert list(cache.rglob("model.safetensors"))
    assert load_target(file)[1].chat_template == TEMPLATE


def test_every_file_of_a_copy_is_as_readable_as_the_others(file):
    modes = {written.stat().st_mode for written in Path(resolve(file)).iterdir()}
    assert len(modes) == 1


DAMAGED = {
    "cut in the header": lambda content: content[:900],
    "cut in the weights": lambda content: content[:-9000],
    "another format": lambda content: b"PK" + content,
}


@pytest.mark.parametrize("damage", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_file_is_named(file, cache, damage):
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(ValueError, match="tiny.gguf cannot be (read|converted).*download it again"):
        load_target(file)
    assert copies(cache) == []


def test_another_release_of_the_embedded_target_is_refused(monkeypatch):
    monkeypatch.setitem(SMOLLM2, "bytes", 7)
    with pytest.raises(ValueError, match="has 98362432 bytes, 7 were expected; reinstall it"):
        load_target("smollm2")


@pytest.fixture
def head(file, cache, tmp_path):
    """The folder of a head for the file's model; the cache is empty again."""
    tiny_head(load_target(file)[0]).save_pretrained(tmp_path / "head")
    (tmp_path / "head" / "chat_template.jinja").write_text("another template")
    shutil.rmtree(cache)
    return tmp_path / "head"


def test_check_neither_converts_a_target_nor_opens_its_weights(file, head, cache, monkeypatch):
    def refuse(*arguments, **options):
        raise AssertionError("the weights were opened")

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", refuse)
    check(head, file)
    assert copies(cache) == []


def test_check_says_of_a_file_what_it_says_of_its_copy(file, head, cache):
    sound = json.loads((head / "config.json").read_text())
    for key, value in {"vocab_size": 50, "rope_theta": 7.0, "eos_token_id": 5}.items():
        (head / "config.json").write_text(json.dumps(sound | {key: value}))
        by_header = check(head, file).findings
        assert copies(cache) == []
        assert by_header == check(head, resolve(file)).findings
        assert by_header == check(head, file).findings
        assert key in {finding.key for finding in by_header}
        shutil.rmtree(cache)


def test_the_header_holds_the_config_of_the_copy(file):
    from_header = read_gguf_config(file)
    written = json.loads(Path(resolve(file), "config.json").read_text())
    assert written.pop("dtype") == "float32"
    assert written["architectures"] == ["LlamaForCausalLM"]
    assert from_header == written


@pytest.mark.parametrize("level", ["note", "error"])
def test_check_holds_the_heads_embeddings_against_those_of_the_file(file, head, cache, level):
    theirs = load_target(file)[0].get_input_embeddings().weight
    shutil.rmtree(cache)
    ours = theirs.clone() if level == "note" else torch.randn_like(theirs)
    weights = load_file(head / "model.safetensors") | {"embed_tokens.weight": ours}
    save_file(weights, head / "model.safetensors", metadata={"format": "pt"})
    findings = check(head, file).findings
    assert [found.level for found in findings if found.key == "embed_tokens.weight"] == [level]
