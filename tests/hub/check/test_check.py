"""What engines will do with a head: every way that people's heads went wrong has a finding."""

import json
import random
import shutil

import pytest
import torch
from breaking import (
    EAGLE_HF,
    IDS,
    LLAMA_CPP,
    OPENVINO,
    SERVERS,
    SGLANG,
    VLLM,
    edit_head,
    found,
    other_target,
    put,
    renamed,
)
from broken_heads import BROKEN
from safetensors.torch import load_file
from tiny import tiny_target

from eagle_hf.hub.check import check


def test_a_sound_head_has_nothing_but_notes(sound):
    assert {finding.level for finding in sound.findings} == {"note"}
    assert not sound.failed
    assert sound.dialect == "eagle_hf"


@pytest.mark.parametrize("case", BROKEN)
def test_what_went_wrong_for_people_is_found(head, target, sound, case):
    broken = BROKEN[case]
    broken.apply(head)
    report = check(head, target)
    assert not found(sound, broken.level, broken.key)
    assert set(broken.engines) <= found(report, broken.level, broken.key)
    assert report.failed or broken.level != "error"


@pytest.mark.parametrize(
    "key", ["--speculative-algorithm", "--speculative-config", "chat_template", "eagle_hf.tree"]
)
def test_what_no_folder_shows_is_always_noted(sound, key):
    assert any(finding.key == key and finding.level == "note" for finding in sound.findings)


def test_chat_templates_are_compared_where_both_are_there(head, target, tmp_path):
    other = other_target(target, tmp_path / "other")
    tokenizer_config = {"chat_template": "{{ messages }} think"}
    (other / "tokenizer_config.json").write_text(json.dumps(tokenizer_config))
    (head / "chat_template.jinja").write_text("{{ messages }}")
    assert {EAGLE_HF, VLLM} <= found(check(head, other), "warning", "chat_template")
    (head / "chat_template.jinja").write_text("{{ messages }} think\n")
    assert "chat_template" not in {finding.key for finding in check(head, other).findings}


def test_a_quantised_target_warns_of_what_the_draft_inherits(head, target, tmp_path):
    quantised = other_target(
        target, tmp_path / "quantised", quantization_config={"quant_method": "fp8"}
    )
    assert found(check(head, quantised), "warning", "quantization_config") == {SGLANG}


def test_a_target_may_be_a_model_or_a_config(head):
    model = tiny_target(vocab_size=40, layers=8, dtype=torch.float32)
    assert found(check(head, model), "error", "vocab_size")
    assert found(check(head, model.config), "error", "vocab_size")
    with pytest.raises(ValueError, match="the target is a int"):
        check(head, 7)


def test_the_targets_own_embeddings_are_no_fault_but_unknown_without_it(head, target):
    theirs = load_file(target / "model.safetensors")["model.embed_tokens.weight"]

    def rounded(_):
        return theirs.bfloat16()

    edit_head(head, weights=put("embed_tokens.weight", rounded))
    assert found(check(head, target), "note", "embed_tokens.weight")
    assert found(check(head), "warning", "embed_tokens.weight")


@pytest.fixture
def speculators_head(head):
    """The head in the format of the speculators library."""
    top_level = (
        "draft_vocab_size",
        "target_hidden_size",
        "norm_before_residual",
        "num_aux_hidden_states",
    )
    layer = json.loads((head / "config.json").read_text())
    for key in ("architectures", "eagle_config", "eagle_hf"):
        del layer[key]
    written = {key: layer.pop(key) for key in top_level}
    written |= {
        "speculators_model_type": "eagle3",
        IDS: [2, 4, 5],
        "transformer_layer_config": layer,
        "speculators_config": {
            "proposal_methods": [{"speculative_tokens": 3}],
            "verifier": {"name_or_path": "someone/their-target"},
        },
    }
    (head / "config.json").write_text(json.dumps(written))
    edit_head(head, weights=renamed("layers.0."))
    return head


def test_the_speculators_format_is_for_vllm_and_llama_cpp(speculators_head, target):
    report = check(speculators_head, target)
    assert report.dialect == "speculators"
    assert found(report, "error", "speculators_config") == {SGLANG, OPENVINO}
    for finding in report.findings:
        if finding.level == "error":
            assert not {VLLM, LLAMA_CPP, EAGLE_HF} & set(finding.engines)


def test_a_damaged_speculators_config_is_found(speculators_head, target):
    edit_head(
        speculators_head, {"model_type": "llama"}, ["norm_before_residual", "speculators_config"]
    )
    report = check(speculators_head, target)
    assert VLLM in found(report, "error", "speculators_config")
    assert VLLM in found(report, "error", "model_type")
    assert found(report, "warning", "norm_before_residual") == {VLLM, LLAMA_CPP}


class Bomb:
    """A pickle of it opens a file for writing, where it is executed."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_a_pickle_is_read_as_tensors_and_never_executed(head, target, tmp_path):
    torch.save(load_file(head / "model.safetensors"), head / "pytorch_model.bin")
    (head / "model.safetensors").unlink()
    report = check(head, target)
    assert found(report, "warning", "pytorch_model.bin") == set(SERVERS)
    assert not report.failed
    torch.save({"fc.weight": Bomb(tmp_path / "exploded")}, head / "pytorch_model.bin")
    assert found(check(head, target), "error", "weights")
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize("shard", ["../model.safetensors", "/etc/passwd", "link.safetensors"])
def test_no_file_outside_of_the_folder_is_read(head, target, tmp_path, shard):
    (head / "model.safetensors").rename(tmp_path / "model.safetensors")
    (head / "link.safetensors").symlink_to(tmp_path / "model.safetensors")
    index = {"weight_map": {"fc.weight": shard}}
    (head / "model.safetensors.index.json").write_text(json.dumps(index))
    assert found(check(head, target), "error", "weights") == set(SERVERS)


def test_a_head_is_checked_by_its_hub_id(saved, target, tmp_path):
    repo = tmp_path / "models--someone--head"
    shutil.copytree(saved / "head", repo / "snapshots" / ("a" * 40))
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text("a" * 40)
    assert not check("someone/head", target, cache_dir=str(tmp_path), local_files_only=True).failed
    with pytest.raises(ValueError, match="color is no option of the hub"):
        check("someone/head", color="red")


def test_the_text_is_by_engine_severest_first_and_without_control_characters(head, target):
    ids_for_offsets = BROKEN["ids instead of offsets"].weights
    edit_head(head, {"architectures": ["\x1b[31mEvil"]}, weights=ids_for_offsets)
    text = check(head, target).text()
    assert "\x1b" not in text
    assert max(map(len, text.splitlines()[1:])) <= 120
    *parts, remedies = text.split("\n\n")
    rows = next(part for part in parts if part.startswith("vLLM (0.3")).splitlines()[1:]
    levels = [row.split()[0] for row in rows if row[2] != " "]
    assert levels == sorted(levels, key=["error", "warning", "note"].index)
    assert levels[0] == "error"
    assert remedies.startswith("What to do\n  [1] from_pretrained:")
    assert "d2t: write offsets" in remedies


HOSTILE_VALUES = [
    None,
    True,
    -1,
    0,
    2**70,
    1e400,
    float("nan"),
    "x" * 99,
    [],
    [[]],
    {},
    {"a": {}},
    ["\x00"],
    "../..",
    -0.5,
]
HOSTILE_KEYS = [
    IDS,
    "rope_scaling",
    "quantization_config",
    "transformer_layer_config",
    "sliding_window",
    "layer_types",
]


def test_whatever_a_folder_holds_the_check_ends_in_a_report_or_a_value_error(head, target):
    generator = random.Random(0)
    config = json.loads((head / "config.json").read_text())
    for _ in range(60):
        mutated = dict(config)
        for key in config:
            if generator.random() < 0.15:
                mutated[key] = generator.choice(HOSTILE_VALUES)
        for key in HOSTILE_KEYS:
            if generator.random() < 0.1:
                mutated[key] = generator.choice(HOSTILE_VALUES)
        (head / "config.json").write_text(json.dumps(mutated))
        assert check(head, target).text()
    (head / "config.json").write_text("[" * 10**5)
    with pytest.raises(ValueError):
        check(head, target)
