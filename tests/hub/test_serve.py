"""The printed command is what an engine's own parser takes; what an engine cannot do is refused."""

import ast
import json
import shlex
from pathlib import Path

import pytest
from tiny import tiny_head

from eagle_hf import TreeConfig
from eagle_hf.hub.engines import SERVERS
from eagle_hf.hub.serve import head_settings, serve_command

TARGET = "me/target"
HEAD = "me/head"
TREE = TreeConfig("dynamic", depth=3, top_k=4, nodes=7)
KEYS = [engine.key for engine in SERVERS]


@pytest.fixture
def config(target):
    config = tiny_head(target).config
    config.tree = TREE
    return config


def words(command, number=-1):
    """The words of a line as the shell splits it."""
    return shlex.split(command.lines[number])


def option(command, name):
    """The word behind an option of the last line."""
    line = words(command)
    return line[line.index(name) + 1]


def vllm_settings(command):
    return json.loads(option(command, "--speculative-config"))


def caveats_of(command):
    return " ".join(caveat.text for caveat in command.caveats)


def script_of(line):
    """The Python script that a line of the shell runs."""
    return line.removeprefix("python - <<'END'\n").removesuffix("\nEND")


def test_vllm_is_given_the_head_and_a_chain_as_deep_as_its_tree(config):
    command = serve_command(TARGET, HEAD, "vllm", config=config, tp=2)
    assert words(command)[:3] == ["vllm", "serve", TARGET]
    assert option(command, "--tensor-parallel-size") == "2"
    assert vllm_settings(command) == {
        "method": "eagle3",
        "model": HEAD,
        "num_speculative_tokens": 3,
        "draft_tensor_parallel_size": 1,
    }
    assert "tree is dynamic:3:4:7; this engine drafts chain:3:1:3" in caveats_of(command)
    assert "no trees" in caveats_of(command)


def test_sglang_is_given_the_tree(config):
    command = serve_command(TARGET, HEAD, "sglang", config=config, tp=4)
    assert option(command, "--speculative-algorithm") == "EAGLE3"
    assert option(command, "--speculative-draft-model-path") == HEAD
    assert option(command, "--speculative-num-steps") == "3"
    assert option(command, "--speculative-eagle-topk") == "4"
    assert option(command, "--speculative-num-draft-tokens") == "8"  # 7 nodes and the root
    assert option(command, "--tp-size") == "4"
    assert "--page-size 1" in caveats_of(command)
    assert "tree is" not in caveats_of(command)


def test_a_chain_on_sglang_counts_the_root_too(config):
    chain = TreeConfig("chain", depth=5)
    command = serve_command(TARGET, HEAD, "sglang", config=config, tree=chain)
    assert option(command, "--speculative-num-steps") == "5"
    assert option(command, "--speculative-eagle-topk") == "1"
    assert option(command, "--speculative-num-draft-tokens") == "6"
    assert "--page-size" not in caveats_of(command)


def test_no_more_nodes_are_asked_for_than_are_proposed(config):
    tree = TreeConfig(depth=2, top_k=3, nodes=60)
    command = serve_command(TARGET, HEAD, "sglang", config=config, tree=tree)
    assert option(command, "--speculative-num-draft-tokens") == str(3 + 3 * 3 + 1)


def test_llama_cpp_converts_target_and_head_and_launches_both(config, tmp_path):
    folder = tmp_path / "target"
    folder.mkdir()
    command = serve_command(str(folder), HEAD, "llamacpp", config=config)
    _, target, download, head, launch = [shlex.split(line) for line in command.lines]
    assert target[2:] == [str(folder), "--outtype", "bf16", "--outfile", "target.gguf"]
    assert download == ["hf", "download", HEAD, "--local-dir", "head"]
    assert head[2:] == [
        *["head", "--outtype", "bf16", "--outfile", "head.gguf"],
        *["--target-model-dir", str(folder)],
    ]
    assert launch == [
        *["llama-server", "-m", "target.gguf", "--spec-type", "draft-eagle3"],
        *["-md", "head.gguf", "--spec-draft-n-max", "3"],
    ]


def test_openvino_exports_both_and_runs_a_script_that_parses(config):
    command = serve_command(TARGET, HEAD, "openvino", config=config)
    assert words(command, 0)[-1] == "target-openvino"
    assert words(command, 2)[-1] == "head-openvino"
    assert "--trust-remote-code" not in words(command, 0)
    assert "--trust-remote-code" in words(command, 2)
    settings = {}
    for node in ast.walk(ast.parse(script_of(command.lines[3]))):
        if isinstance(node, ast.keyword) and isinstance(node.value, ast.Constant):
            settings[node.arg] = ast.literal_eval(node.value)
    assert settings == {
        "max_new_tokens": 256,
        "num_assistant_tokens": 7,
        "tree_depth": 3,
        "branching_factor": 4,
    }


def test_openvinos_script_moves_the_targets_layers_by_one(config, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("target-openvino").mkdir()
    graph = Path("target-openvino/openvino_model.xml")

    def layer_line(layer, part):
        return f'<layer name="__module.model.layers.{layer}/aten::add/Add{part}"/>'

    before = [(8, ""), (8, "_1"), (9, ""), (9, "_1")]
    graph.write_text("\n".join(layer_line(*place) for place in before))
    exec(script_of(serve_command(TARGET, HEAD, "openvino", config=config).lines[1]))
    after = [(8, ""), (9, "_1"), (9, ""), (10, "_1")]  # the output of a layer is Add_1
    assert graph.read_text().splitlines() == [layer_line(*place) for place in after]


@pytest.mark.parametrize(
    "engine, expected",
    [
        (
            "vllm",
            '{"method": "draft_model", "model": "me/small", "num_speculative_tokens": 4, '
            '"draft_tensor_parallel_size": 1}',
        ),
        (
            "sglang",
            "--speculative-algorithm STANDALONE --speculative-draft-model-path me/small "
            "--speculative-num-steps 4 --speculative-eagle-topk 1",
        ),
        ("llamacpp", "--spec-type draft-simple -md small.gguf --spec-draft-n-max 4"),
        ("openvino", "genai.draft_model('small-openvino', 'CPU'))"),
    ],
)
def test_a_smaller_model_drafts(engine, expected):
    command = serve_command(TARGET, "me/small", engine, "draft-model")
    assert expected in command.lines[-1]
    assert "head" not in caveats_of(command)


@pytest.mark.parametrize(
    "engine, expected",
    [
        (
            "vllm",
            '{"method": "ngram", "num_speculative_tokens": 6, "prompt_lookup_max": 4, '
            '"prompt_lookup_min": 2}',
        ),
        (
            "sglang",
            "--speculative-algorithm NGRAM --speculative-ngram-max-bfs-breadth 1 "
            "--speculative-num-draft-tokens 7",
        ),
        (
            "llamacpp",
            "--spec-type ngram-simple --spec-ngram-simple-size-n 4 --spec-ngram-simple-size-m 6",
        ),
        ("openvino", "prompt_lookup=True"),
    ],
)
def test_the_text_itself_drafts(engine, expected):
    command = serve_command(TARGET, None, engine, "ngram", tree=TreeConfig("chain", depth=6))
    assert expected in command.lines[-1]
    assert not any("draft-model" in word for word in words(command))


def test_a_draft_model_is_split_as_its_target_on_vllm():
    command = serve_command(TARGET, "me/small", "vllm", "draft-model", tp=2)
    assert vllm_settings(command)["draft_tensor_parallel_size"] == 2


@pytest.mark.parametrize("engine", KEYS)
def test_odd_names_survive_the_shell(engine, config):
    target = 'it\'s a/"target" $HOME'
    head = "head; rm -rf $(x) `y` \\ é"
    command = serve_command(target, head, engine, config=config)
    found = []
    for line in command.lines:
        found += shlex.split(line)
    settings = [json.loads(word)["model"] for word in found if word.startswith("{")]
    assert target in found
    assert head in found + settings


def test_two_folders_of_one_name_are_kept_apart(config):
    command = serve_command("a/model", "b/model", "llamacpp", config=config)
    assert words(command)[2] == "model.gguf"
    assert "model-drafter.gguf" in words(command)
    assert words(command, 1)[-1] == "model"
    assert words(command, 3)[-1] == "model-drafter"


@pytest.mark.parametrize(
    "engine, tree",
    [
        ("vllm", "dynamic:3:4:7"),
        ("llamacpp", "dynamic:3:4:7"),
        ("sglang", "sequoia:6:8:63"),
        ("sglang", "adaptive:6:8:63"),
        ("openvino", "adaptive:6:8:63"),
        ("sglang", "chain:4:1:4:rejection"),
        ("llamacpp", "chain:4:1:4:rejection"),
        ("openvino", "chain:4:1:4:rejection"),
    ],
)
def test_a_tree_that_the_engine_cannot_draft_is_refused_when_asked_for_and_said_when_saved(
    config, engine, tree
):
    tree = TreeConfig.parse(tree)
    refusal = f"cannot draft {tree} with eagle3; the nearest it can is "
    with pytest.raises(ValueError, match=refusal):
        serve_command(TARGET, HEAD, engine, config=config, tree=tree)
    config.tree = tree
    assert f"tree is {tree}" in caveats_of(serve_command(TARGET, HEAD, engine, config=config))


@pytest.mark.parametrize(
    "engine, flag",
    [
        ("vllm", '"draft_sample_method": "probabilistic"'),
        ("sglang", "--speculative-use-rejection-sampling"),
    ],
)
def test_drafts_are_drawn_where_the_head_says_so(target, engine, flag):
    config = tiny_head(target, draft_vocab_size=31).config
    config.tree = TreeConfig("chain", depth=4, acceptance="rejection")
    assert flag in serve_command(TARGET, HEAD, engine, config=config).lines[-1]
    config.tree = TreeConfig("chain", depth=4)
    assert flag not in serve_command(TARGET, HEAD, engine, config=config).lines[-1]


@pytest.fixture
def other_layers_config(target):
    """Of a head that does not read the default layers."""
    return tiny_head(target, eagle_hf={"aux_layer_ids": [1, 2, 6]}).config


def test_sglang_gets_an_export_of_a_head_of_other_layers(other_layers_config):
    command = serve_command(TARGET, "my/head", "sglang", config=other_layers_config)
    assert words(command, 0) == [
        *["eagle-hf", "export", "my/head", "--to", "sglang"],
        *["--target", TARGET, "--out", "head-sglang"],
    ]
    assert option(command, "--speculative-draft-model-path") == "head-sglang"
    assert "[1, 2, 6]" in caveats_of(command)


def test_vllm_gets_a_head_of_other_layers_as_it_is(other_layers_config):
    command = serve_command(TARGET, HEAD, "vllm", config=other_layers_config)
    assert command.lines[0].startswith("vllm")


def test_openvino_gets_no_head_of_other_layers(other_layers_config):
    with pytest.raises(ValueError, match=r"OpenVINO GenAI reads the layers \(2, n//2, n-3\)"):
        serve_command(TARGET, HEAD, "openvino", config=other_layers_config)


def test_foreign_dialects_are_exported_first(config):
    command = serve_command(TARGET, HEAD, "llamacpp", config=config, dialect="automodel")
    assert "--to llamacpp" in command.lines[0]
    command = serve_command(TARGET, HEAD, "vllm", config=config, dialect="speculators")
    assert command.lines[0].startswith("vllm")


@pytest.mark.parametrize(
    "arguments, what",
    [
        (dict(engine="tgi"), "engine is 'tgi'"),
        (dict(engine="vllm", method="medusa"), "method 'medusa'"),
        (dict(engine="vllm", method="ngram"), "ngram neither"),
        (dict(engine="vllm", head=None), "takes a draft head"),
        (dict(engine="vllm", target="a.gguf"), "is a GGUF"),
        (dict(engine="llamacpp", tp=2), "tp is 2; llama.cpp takes 1"),
        (dict(engine="vllm", tp=0), "tp is 0"),
    ],
)
def test_impossible_wishes_are_refused(config, arguments, what):
    with pytest.raises(ValueError, match=what):
        serve_command(**{"target": TARGET, "head": HEAD, "config": config} | arguments)


def test_a_head_that_an_engine_computes_otherwise_is_refused(target):
    config = tiny_head(target, norm_before_residual=True).config
    refusal = (
        "SGLang does not know this head's norm_before_residual.*serve it with vLLM or llama.cpp$"
    )
    with pytest.raises(ValueError, match=refusal):
        serve_command(TARGET, HEAD, "sglang", config=config)


@pytest.fixture(params=KEYS)
def command(request, target):
    """The command of each engine for a head that knows its trained length."""
    config = tiny_head(target, eagle_hf={"trained_length": 400}).config
    return serve_command(TARGET, HEAD, request.param, config=config)


@pytest.mark.parametrize("what", ["default layers", "MB in bfloat16", "first token", "400 tokens"])
def test_caveats_of_the_head_are_given_for_every_engine(command, what):
    assert what in caveats_of(command)


def test_caveats_name_their_version(command):
    known = {"computed", "the head's config"}
    for engine in SERVERS:
        known |= {engine.read, engine.run}
    assert known & {caveat.source for caveat in command.caveats}
    assert all(caveat.source for caveat in command.caveats)


def test_the_text_runs_in_a_shell(command):
    rest = command.text()
    for line in command.lines:
        assert line in rest
        rest = rest.replace(line, "")
    assert all(line.startswith("#") for line in rest.splitlines() if line)
    assert command.version in rest


def test_memory_is_that_of_the_heads_weights(target):
    head = tiny_head(target, intermediate_size=40000)
    size = 2 * sum(weight.numel() for weight in head.parameters()) / 1e6
    command = serve_command(TARGET, HEAD, "vllm", config=head.config)
    assert f"{size:.1f} MB in bfloat16, and 64 bytes" in caveats_of(command)


def test_only_the_config_of_a_saved_head_is_read(target, tmp_path):
    tiny_head(target).save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    config, dialect = head_settings(tmp_path)
    assert dialect == "eagle_hf"
    assert serve_command(TARGET, str(tmp_path), "vllm", config=config, dialect=dialect)
