"""What engines will do with a head: every way that people's heads went wrong has a finding, and what follows from the rest is mended."""

import json
import random
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import tiny_head, tiny_target

from eagle_hf import Eagle3DraftHead
from eagle_hf.hub.check import check
from eagle_hf.hub.findings import EAGLE_HF, LLAMA_CPP, OPENVINO, SERVERS, SGLANG, VLLM
from eagle_hf.hub.fix import fix

IDS = "eagle_aux_hidden_state_layer_ids"
NESTED = f"eagle_config.{IDS}"
ROPE = {"rope_type": "default", "rope_theta": 500000.0}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A target of 8 layers, whose default layers are 2, 4 and 5, and a sound head for it, each in its folder."""
    folder, target = (
        tmp_path_factory.mktemp("saved"),
        tiny_target(layers=8, dtype=torch.float32, rope_parameters=ROPE),
    )
    target.save_pretrained(folder / "target")
    for name, size in (("head", 24), ("whole", 31)):
        head = tiny_head(target, size)
        with torch.no_grad():
            for key, weight in head.named_parameters():
                if "norm" in key:
                    weight.uniform_(0.5, 1.5)  # all ones would look untrained
        head.save_pretrained(folder / name)
    return folder


@pytest.fixture(scope="module")
def target(saved):
    return saved / "target"


@pytest.fixture(scope="module")
def sound(saved, target):
    return check(saved / "head", target)


@pytest.fixture
def head(saved, tmp_path):
    """A copy of the sound head, to be broken."""
    return shutil.copytree(saved / "head", tmp_path / "head")


def edit(folder, config=(), drop=(), weights=None):
    """Set and drop keys of config.json, and replace the weights by `weights(weights)`."""
    written = json.loads((folder / "config.json").read_text()) | dict(config)
    (folder / "config.json").write_text(
        json.dumps({key: value for key, value in written.items() if key not in drop})
    )
    if weights:
        tensors = {
            name: tensor.contiguous()
            for name, tensor in weights(load_file(folder / "model.safetensors")).items()
        }
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def other_target(target, folder, **config):
    """A target of which there is only a config.json, that of `target` with other keys."""
    folder.mkdir()
    (folder / "config.json").write_text(
        json.dumps(json.loads((target / "config.json").read_text()) | config)
    )
    return folder


def put(name, make):
    return lambda weights: weights | {name: make(weights.get(name))}


def without(*names):
    return lambda weights: {name: tensor for name, tensor in weights.items() if name not in names}


def renamed(new):
    return lambda weights: {
        name.replace("midlayer.", new): tensor for name, tensor in weights.items()
    }


def whole(weights):
    """The whole vocabulary, and a map nevertheless."""
    return weights | {
        "lm_head.weight": torch.rand(31, 32),
        "d2t": torch.zeros(31, dtype=torch.long),
        "t2d": torch.ones(31, dtype=torch.bool),
    }


def all_ones(weights):
    return {
        name: torch.ones_like(tensor) if "norm" in name else tensor
        for name, tensor in weights.items()
    }


def nested(ids, **config):
    return {"eagle_config": {"use_aux_hidden_state": True, IDS: ids}} | config


def trained_on(ids):
    return {"eagle_hf": {"aux_layer_ids": ids}}


OTHER = [1, 3, 6]
NO_KEY = ("eagle_hf",)  # a head that was trained elsewhere
OTHER_ROPE = {"rope_theta": 1e4, "rope_parameters": ROPE | {"rope_theta": 1e4}}
HALF_FC = put("fc.weight", lambda fc: fc[:, :64])
EMBEDDED = put("embed_tokens.weight", lambda _: torch.randn(31, 32))
# how a head is broken: config, dropped keys, weights; and what is found: level, key, some of the engines
BROKEN = {
    # the layer ids
    "sglang#25454 HF indices nested": (
        nested([2, 4, 5]),
        NO_KEY,
        None,
        "warning",
        NESTED,
        [SGLANG],
    ),
    "vllm#43671 outputs at the top level": (
        {IDS: [1, 3, 4]},
        NO_KEY,
        None,
        "warning",
        IDS,
        [VLLM, LLAMA_CPP],
    ),
    "one list in both places": (
        nested(OTHER, **{IDS: OTHER}),
        NO_KEY,
        None,
        "error",
        NESTED,
        [SGLANG],
    ),
    "nested ids alone": (nested([1, 3, 4]), NO_KEY, None, "error", NESTED, [VLLM]),
    "other layers at the top level alone": (
        trained_on(OTHER) | {IDS: OTHER},
        (),
        None,
        "error",
        NESTED,
        [SGLANG],
    ),
    "other layers": (
        nested([0, 2, 5], **trained_on(OTHER), **{IDS: OTHER}),
        (),
        None,
        "warning",
        IDS,
        [OPENVINO],
    ),
    "vllm#50170 no ids": ({}, NO_KEY, None, "warning", IDS, [EAGLE_HF, *SERVERS]),
    "ids beyond the target": ({IDS: [2, 4, 8]}, NO_KEY, None, "error", IDS, [VLLM, EAGLE_HF]),
    "ids out of order": (
        trained_on([5, 2, 4]) | {IDS: [5, 2, 4]},
        (),
        None,
        "error",
        IDS,
        [VLLM, SGLANG],
    ),
    "vllm#54526 fewer ids than states": (
        trained_on([2, 4]),
        (),
        None,
        "error",
        IDS,
        [VLLM, SGLANG],
    ),
    # states and sizes
    "vllm#54526 two states, not counted": (
        {},
        ("num_aux_hidden_states",),
        HALF_FC,
        "error",
        "num_aux_hidden_states",
        [VLLM, SGLANG],
    ),
    "two states": (
        trained_on([2, 4]) | {"num_aux_hidden_states": 2},
        (),
        HALF_FC,
        "error",
        "num_aux_hidden_states",
        [LLAMA_CPP, OPENVINO],
    ),
    "no aux states": (
        {"eagle_config": {"use_aux_hidden_state": False}},
        (),
        None,
        "error",
        "eagle_config.use_aux_hidden_state",
        [VLLM],
    ),
    "vllm#18906 another width": (
        {"target_hidden_size": 64},
        (),
        None,
        "error",
        "target_hidden_size",
        [VLLM, SGLANG, EAGLE_HF],
    ),
    "no width": (
        {"target_hidden_size": None},
        (),
        None,
        "error",
        "target_hidden_size",
        [VLLM, SGLANG],
    ),
    "a size of the wrong kind": (
        {"intermediate_size": "64"},
        (),
        None,
        "error",
        "intermediate_size",
        [VLLM],
    ),
    "a wrong head_dim": (
        {"head_dim": 16},
        (),
        None,
        "error",
        "midlayer.self_attn.q_proj.weight",
        SERVERS,
    ),
    "two layers": (
        {"num_hidden_layers": 2},
        (),
        None,
        "error",
        "num_hidden_layers",
        [VLLM, SGLANG, LLAMA_CPP],
    ),
    "layers not counted": (
        {},
        ("num_hidden_layers",),
        None,
        "error",
        "num_hidden_layers",
        [VLLM, SGLANG],
    ),
    "EAGLE#249 another vocabulary": (
        {"vocab_size": 40},
        (),
        None,
        "error",
        "vocab_size",
        [VLLM, SGLANG, LLAMA_CPP],
    ),
    "vllm#48894 sglang#6783 short": (
        {"max_position_embeddings": 128},
        (),
        None,
        "error",
        "max_position_embeddings",
        [VLLM, SGLANG],
    ),
    # the class, and code
    "another class": (
        {"architectures": ["LlamaForCausalLM"]},
        (),
        None,
        "error",
        "architectures",
        [SGLANG, OPENVINO],
    ),
    "a model_type of its own": (
        {"model_type": "eagle3"},
        (),
        None,
        "error",
        "model_type",
        [VLLM, SGLANG],
    ),
    "code of its own": (
        {"auto_map": {"AutoModel": "modeling.Head"}},
        (),
        None,
        "warning",
        "auto_map",
        [VLLM, SGLANG],
    ),
    # RoPE
    "speculators#574 RoPE dropped": (
        {},
        ("rope_theta", "rope_parameters"),
        None,
        "warning",
        "rope_theta",
        [VLLM, SGLANG, EAGLE_HF],
    ),
    "sglang#21397 legacy RoPE alone": (
        {},
        ("rope_parameters",),
        None,
        "note",
        "rope_parameters",
        [SGLANG],
    ),
    "new RoPE alone": ({}, ("rope_theta",), None, "warning", "rope_theta", [VLLM]),
    "two bases": ({"rope_theta": 10000.0}, (), None, "error", "rope_theta", [VLLM, SGLANG]),
    "two scalings": (
        {"rope_scaling": {"rope_type": "linear", "factor": 2.0}},
        (),
        None,
        "error",
        "rope_scaling",
        [VLLM, SGLANG],
    ),
    "another base than the target's": (
        OTHER_ROPE,
        NO_KEY,
        None,
        "warning",
        "rope_theta",
        [VLLM, SGLANG],
    ),
    "yarn": (
        {"rope_scaling": {"rope_type": "yarn", "factor": 2.0}},
        ("rope_parameters",),
        None,
        "warning",
        "rope_parameters.rope_type",
        [VLLM],
    ),
    # what an engine ignores
    "norm_before_residual": (
        {"norm_before_residual": True},
        (),
        None,
        "error",
        "norm_before_residual",
        [SGLANG, OPENVINO],
    ),
    "norm_output": ({"norm_output": True}, (), None, "error", "norm_output", [LLAMA_CPP]),
    "fc_norm without tensors": (
        {"fc_norm": True},
        (),
        None,
        "error",
        "fc_norm.0.weight, fc_norm.1.weight, fc_norm.2.weight",
        [VLLM],
    ),
    "fc_norm without the flag": (
        {},
        (),
        put("fc_norm.0.weight", lambda _: torch.rand(32)),
        "error",
        "fc_norm.0.weight",
        [VLLM, SGLANG],
    ),
    "a window": ({"sliding_window": 64}, (), None, "warning", "sliding_window", [SGLANG]),
    "biases": (
        {},
        (),
        put("midlayer.self_attn.q_proj.bias", lambda _: torch.rand(32)),
        "error",
        "self_attn.*.bias",
        [SGLANG],
    ),
    "another activation": (
        {"hidden_act": "gelu"},
        (),
        None,
        "error",
        "hidden_act",
        [VLLM, SGLANG, LLAMA_CPP],
    ),
    "sglang#28196 a quantisation block": (
        {"quantization_config": {"bits": 8}},
        (),
        None,
        "error",
        "quantization_config",
        [VLLM, SGLANG],
    ),
    "another end of text": ({"eos_token_id": 7}, (), None, "warning", "eos_token_id", [VLLM]),
    # LM head and embeddings
    "sglang#27908 no LM head": (
        {},
        (),
        without("lm_head.weight"),
        "error",
        "lm_head.weight",
        [VLLM, SGLANG],
    ),
    "sglang#27908 tied": (
        {"tie_word_embeddings": True},
        (),
        None,
        "error",
        "tie_word_embeddings",
        [SGLANG],
    ),
    "TorchSpec#38 embeddings of zeros": (
        {},
        (),
        put("embed_tokens.weight", lambda _: torch.zeros(31, 32)),
        "error",
        "embed_tokens.weight",
        [VLLM],
    ),
    "TorchSpec#38 random embeddings": (
        {},
        (),
        EMBEDDED,
        "error",
        "embed_tokens.weight",
        [VLLM, LLAMA_CPP],
    ),
    # the draft vocabulary
    "EAGLE#214 a map of another length": (
        {},
        (),
        put("d2t", lambda d2t: d2t[:-1]),
        "error",
        "d2t",
        [VLLM, SGLANG],
    ),
    "EAGLE#249 no map": ({}, (), without("d2t", "t2d"), "error", "d2t", [VLLM, SGLANG]),
    "no t2d": ({}, (), without("t2d"), "note", "t2d", [VLLM]),
    "SpecForge#534 d2t rebuilt": (
        {},
        (),
        put("d2t", torch.zeros_like),
        "error",
        "t2d",
        [VLLM, SGLANG, EAGLE_HF],
    ),
    "ids instead of offsets": (
        {},
        (),
        put("d2t", lambda d2t: d2t + torch.arange(24)),
        "error",
        "d2t",
        [VLLM, SGLANG],
    ),
    "ids beyond the vocabulary": (
        {},
        (),
        put("d2t", lambda d2t: d2t + 9),
        "error",
        "d2t",
        [VLLM, SGLANG, LLAMA_CPP],
    ),
    "one token twice": (
        {},
        (),
        put("d2t", lambda d2t: torch.cat([d2t[:1], d2t[:1] - 1, d2t[2:]])),
        "error",
        "d2t",
        [LLAMA_CPP],
    ),
    "a map of floats": ({}, (), put("d2t", torch.Tensor.float), "error", "d2t", [SGLANG]),
    "a map of int32": ({}, (), put("d2t", torch.Tensor.int), "warning", "d2t", [SGLANG]),
    "a map at full vocabulary": ({"draft_vocab_size": 31}, (), whole, "error", "d2t", [VLLM]),
    "draft_vocab_size absent": (
        {},
        ("draft_vocab_size",),
        None,
        "error",
        "draft_vocab_size",
        [SGLANG, LLAMA_CPP, OPENVINO],
    ),
    "draft_vocab_size null": (
        {"draft_vocab_size": None},
        (),
        None,
        "error",
        "draft_vocab_size",
        [SGLANG],
    ),
    # names and values of tensors
    "a missing tensor": (
        {},
        (),
        without("midlayer.hidden_norm.weight"),
        "error",
        "midlayer.hidden_norm.weight",
        SERVERS,
    ),
    "an unknown tensor": (
        {},
        (),
        put("extra.weight", lambda _: torch.ones(2)),
        "error",
        "extra.weight",
        [VLLM, LLAMA_CPP],
    ),
    "layers.0.*": ({}, NO_KEY, renamed("layers.0."), "error", "layers.0.*", [OPENVINO]),
    "model.*": (
        {},
        NO_KEY,
        renamed("model.layers.0."),
        "error",
        "model.layers.0.hidden_norm.weight",
        [VLLM, LLAMA_CPP],
    ),
    "a wrong shape": ({}, (), HALF_FC, "error", "fc.weight", [VLLM, SGLANG]),
    "not a number": (
        {},
        (),
        put("norm.weight", lambda norm: norm * float("nan")),
        "error",
        "norm.weight",
        [VLLM, EAGLE_HF],
    ),
    "all zero": (
        {},
        (),
        put("lm_head.weight", torch.zeros_like),
        "error",
        "lm_head.weight",
        [VLLM, EAGLE_HF],
    ),
    "norms of 1": (
        {},
        (),
        all_ones,
        "warning",
        "midlayer.hidden_norm.weight, midlayer.input_layernorm.weight, "
        "midlayer.post_attention_layernorm.weight and 1 more",
        [VLLM],
    ),
    "quantised tensors": (
        {},
        (),
        put("fc.weight", lambda fc: fc.to(torch.int8)),
        "error",
        "fc.weight",
        [VLLM],
    ),
    "float64": ({}, (), put("fc.weight", torch.Tensor.double), "warning", "fc.weight", [VLLM]),
}
LOST = {  # contradictions, and what is not there any more
    "one list in both places",
    "ids beyond the target",
    "vllm#54526 fewer ids than states",
    "vllm#54526 two states, not counted",
    "vllm#18906 another width",
    "EAGLE#249 another vocabulary",
    "two bases",
    "two scalings",
    "fc_norm without tensors",
    "fc_norm without the flag",
    "biases",
    "sglang#27908 no LM head",
    "EAGLE#214 a map of another length",
    "EAGLE#249 no map",
    "SpecForge#534 d2t rebuilt",
    "ids beyond the vocabulary",
    "one token twice",
    "a missing tensor",
    "an unknown tensor",
    "a wrong shape",
    "not a number",
    "all zero",
    "quantised tensors",
    "no aux states",
}
SAME_WEIGHTS = {
    "model.*",
    "layers.0.*",
    "ids instead of offsets",
    "a map of floats",
    "no t2d",
    "TorchSpec#38 random embeddings",
    "another class",
}


def found(report, level, key):
    return {
        engine
        for finding in report.findings
        if (finding.level, finding.key) == (level, key)
        for engine in finding.engines
    }


def mendable(report):
    return [
        finding for finding in report.findings if finding.level == "error" and not finding.limit
    ]


def test_a_sound_head_has_nothing_but_notes(sound):
    assert (
        {finding.level for finding in sound.findings} == {"note"}
        and not sound.failed
        and sound.dialect == "eagle_hf"
    )


@pytest.mark.parametrize("case", BROKEN)
def test_what_went_wrong_for_people_is_found(head, target, sound, case):
    *broken, level, key, engines = BROKEN[case]
    edit(head, *broken)
    report = check(head, target)
    assert not found(sound, level, key) and set(engines) <= found(report, level, key)
    assert report.failed or level != "error"


@pytest.mark.parametrize(
    "key", ["--speculative-algorithm", "--speculative-config", "chat_template", "eagle_hf.tree"]
)
def test_what_no_folder_shows_is_always_told(sound, key):
    assert any(finding.key == key and finding.level == "note" for finding in sound.findings)


def test_chat_templates_are_compared_where_both_are_there(head, target, tmp_path):
    other = other_target(target, tmp_path / "other")
    (head / "chat_template.jinja").write_text("{{ messages }}")
    (other / "tokenizer_config.json").write_text(
        json.dumps({"chat_template": "{{ messages }} think"})
    )
    assert {EAGLE_HF, VLLM} <= found(check(head, other), "warning", "chat_template")
    (head / "chat_template.jinja").write_text("{{ messages }} think\n")
    assert "chat_template" not in {finding.key for finding in check(head, other).findings}


@pytest.mark.parametrize(
    "family, ids, trained, right",
    [
        ("LlamaForCausalLM", [1, 3, 4], [2, 4, 5], True),
        ("LlamaForCausalLM", [2, 4, 5], [2, 4, 5], False),
        ("DeepseekV3ForCausalLM", [2, 4, 5], [2, 4, 5], True),
        ("DeepseekV3ForCausalLM", [1, 3, 4], [2, 4, 5], True),
        ("Glm4MoeLiteForCausalLM", [3, 4, 5], [4, 5, 6], False),
        ("GptOssForCausalLM", [2, 5, 8], [2, 5, 8], True),
        ("GptOssForCausalLM", [2, 5, 7], [2, 5, 7], False),
    ],
)
def test_sglang_reads_nested_ids_by_the_targets_class(
    head, target, tmp_path, family, ids, trained, right
):
    edit(head, nested(ids, **trained_on(trained)))
    report = check(head, other_target(target, tmp_path / "kind", architectures=[family]))
    assert (SGLANG in found(report, "error", NESTED)) == (not right)


def test_a_quantised_target_warns_of_what_the_draft_inherits(head, target, tmp_path):
    report = check(
        head,
        other_target(target, tmp_path / "quantised", quantization_config={"quant_method": "fp8"}),
    )
    assert found(report, "warning", "quantization_config") == {SGLANG}


def test_a_target_may_be_a_model_or_a_config(head):
    model = tiny_target(vocab_size=40, layers=8, dtype=torch.float32)
    for target in (model, model.config):
        assert found(check(head, target), "error", "vocab_size")
    with pytest.raises(ValueError, match="the target is a int"):
        check(head, 7)


def test_the_targets_own_embeddings_are_no_fault_but_unknown_without_it(head, target):
    theirs = load_file(target / "model.safetensors")["model.embed_tokens.weight"]
    edit(head, weights=put("embed_tokens.weight", lambda _: theirs.bfloat16()))
    assert found(check(head, target), "note", "embed_tokens.weight")
    assert found(check(head), "warning", "embed_tokens.weight")


def test_the_speculators_format_is_for_vllm_and_llama_cpp(head, target):
    config = json.loads((head / "config.json").read_text())
    own = {
        key: config[key]
        for key in (
            "draft_vocab_size",
            "target_hidden_size",
            "norm_before_residual",
            "num_aux_hidden_states",
        )
    }
    layer = {
        key: value
        for key, value in config.items()
        if key not in (*own, "architectures", "eagle_config", "eagle_hf")
    }
    plan = {
        "proposal_methods": [{"speculative_tokens": 3}],
        "verifier": {"name_or_path": "someone/their-target"},
    }
    written = own | {
        "speculators_model_type": "eagle3",
        IDS: [2, 4, 5],
        "transformer_layer_config": layer,
        "speculators_config": plan,
    }
    (head / "config.json").write_text(json.dumps(written))
    edit(head, weights=renamed("layers.0."))
    report = check(head, target)
    assert report.dialect == "speculators" and found(report, "error", "speculators_config") == {
        SGLANG,
        OPENVINO,
    }
    assert not any(
        f.level == "error" and {VLLM, LLAMA_CPP, EAGLE_HF} & set(f.engines) for f in report.findings
    )
    edit(head, {"model_type": "llama"}, ["norm_before_residual", "speculators_config"])
    report = check(head, target)
    assert VLLM in found(report, "error", "speculators_config") & found(
        report, "error", "model_type"
    )
    assert found(report, "warning", "norm_before_residual") == {VLLM, LLAMA_CPP}


class Bomb:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_a_pickle_is_read_as_tensors_and_never_executed(head, target, tmp_path):
    torch.save(load_file(head / "model.safetensors"), head / "pytorch_model.bin")
    (head / "model.safetensors").unlink()
    report = check(head, target)
    assert found(report, "warning", "pytorch_model.bin") == set(SERVERS) and not report.failed
    torch.save({"fc.weight": Bomb(tmp_path / "exploded")}, head / "pytorch_model.bin")
    assert found(check(head, target), "error", "weights") and not (tmp_path / "exploded").exists()


@pytest.mark.parametrize("shard", ["../model.safetensors", "/etc/passwd", "link.safetensors"])
def test_no_file_outside_of_the_folder_is_read(head, target, tmp_path, shard):
    (head / "model.safetensors").rename(tmp_path / "model.safetensors")
    (head / "link.safetensors").symlink_to(tmp_path / "model.safetensors")
    (head / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": {"fc.weight": shard}})
    )
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
    edit(head, {"architectures": ["\x1b[31mEvil"]}, weights=BROKEN["ids instead of offsets"][2])
    text = check(head, target).text()
    assert "\x1b" not in text and max(map(len, text.splitlines()[1:])) <= 120
    *parts, remedies = text.split("\n\n")
    rows = next(part for part in parts if part.startswith("vLLM (0.3")).splitlines()[1:]
    levels = [row.split()[0] for row in rows if row[2] != " "]
    assert levels == sorted(levels, key=["error", "warning", "note"].index) and levels[0] == "error"
    assert (
        remedies.startswith("What to do\n  [1] from_pretrained:")
        and "d2t: write offsets" in remedies
    )


def test_whatever_a_folder_holds_the_check_ends_in_a_report_or_a_value_error(head, target):
    generator, config = random.Random(0), json.loads((head / "config.json").read_text())
    values = [
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
    for _ in range(60):
        mutated = {
            key: generator.choice(values) if generator.random() < 0.15 else value
            for key, value in config.items()
        }
        for key in (
            IDS,
            "rope_scaling",
            "quantization_config",
            "transformer_layer_config",
            "sliding_window",
            "layer_types",
        ):
            if generator.random() < 0.1:
                mutated[key] = generator.choice(values)
        (head / "config.json").write_text(json.dumps(mutated))
        assert check(head, target).text()
    (head / "config.json").write_text("[" * 10**5)
    with pytest.raises(ValueError):
        check(head, target)


@pytest.mark.parametrize("case", sorted(set(BROKEN) - LOST))
def test_what_follows_from_the_rest_is_mended(head, saved, target, tmp_path, case):
    edit(head, *BROKEN[case][:3])
    before, changes, after = (
        mendable(check(head, target)),
        fix(head, tmp_path / "out", target),
        mendable(check(tmp_path / "out", target)),
    )
    assert not after and (changes or not before)
    mended, sound = (
        Eagle3DraftHead.from_pretrained(folder).state_dict()
        for folder in (tmp_path / "out", saved / "head")
    )
    if case in SAME_WEIGHTS:
        assert all(torch.equal(mended[name], sound[name]) for name in sound)


@pytest.mark.parametrize("case", sorted(LOST))
def test_what_would_be_a_guess_is_refused_and_nothing_is_written(head, target, tmp_path, case):
    edit(head, *BROKEN[case][:3])
    with pytest.raises(ValueError, match="cannot be mended"):
        fix(head, tmp_path / "out", target)
    assert [path.name for path in tmp_path.iterdir()] == ["head"]


def test_other_layers_are_written_as_each_engine_counts_them(head, target, tmp_path):
    edit(head, trained_on(OTHER))
    for family, nested_list in (("LlamaForCausalLM", [0, 2, 5]), ("DeepseekV3ForCausalLM", None)):
        other = other_target(target, tmp_path / family, architectures=[family])
        fix(head, tmp_path / f"{family}-out", other)
        config = json.loads((tmp_path / f"{family}-out" / "config.json").read_text())
        assert config[IDS] == OTHER and config["eagle_config"].get(IDS) == nested_list
        assert (SGLANG in found(check(tmp_path / f"{family}-out", other), "error", NESTED)) == (
            nested_list is None
        )


def test_a_borrowed_lm_head_is_taken_from_the_target(saved, target, tmp_path):
    borrowing = shutil.copytree(saved / "whole", tmp_path / "head")
    edit(borrowing, {"draft_vocab_size": None}, weights=without("lm_head.weight"))
    changes = fix(borrowing, tmp_path / "out", target)
    theirs = load_file(target / "model.safetensors")["lm_head.weight"]
    assert (
        torch.equal(Eagle3DraftHead.from_pretrained(tmp_path / "out").lm_head.weight, theirs)
        and "lm_head.weight: the target's" in changes[0]
    )
    with pytest.raises(ValueError, match="holds no lm_head.weight"):
        fix(borrowing, tmp_path / "again")


def test_a_map_in_no_order_is_sorted_with_the_rows_of_the_lm_head(head, saved, target, tmp_path):
    order = torch.randperm(24)

    def shuffled(weights):
        ids = (weights["d2t"] + torch.arange(24))[order]
        return weights | {
            "d2t": ids - torch.arange(24),
            "lm_head.weight": weights["lm_head.weight"][order],
        }

    edit(head, weights=shuffled)
    assert found(check(head, target), "note", "d2t") and not found(
        check(head, target), "error", "d2t"
    )
    fix(head, tmp_path / "out", target)
    mended, sound = (
        Eagle3DraftHead.from_pretrained(folder).state_dict()
        for folder in (tmp_path / "out", saved / "head")
    )
    assert all(torch.equal(mended[name], sound[name]) for name in ("d2t", "t2d", "lm_head.weight"))


def test_embeddings_are_left_out_only_where_the_target_can_tell(head, target, tmp_path):
    edit(head, weights=EMBEDDED)
    with pytest.raises(ValueError, match="embed_tokens.weight: embeddings are shipped"):
        fix(head, tmp_path / "out")
    assert any("not the target's" in change for change in fix(head, tmp_path / "out", target))
    with pytest.raises(ValueError, match="nothing is overwritten"):
        fix(head, tmp_path / "out", target)
