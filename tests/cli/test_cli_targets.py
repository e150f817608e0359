"""`eagle-hf targets`: what can draft for a model, from its config alone."""

import json

import pytest
from transformers import GPT2Config, GPTNeoConfig, LlamaConfig, LlavaConfig

from eagle_hf import cli

CONFIGS = {
    "llama": LlamaConfig(),
    "gpt2": GPT2Config(),
    "gpt_neo": GPTNeoConfig(),
    "llava": LlavaConfig(),
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with the configs of full-sized models, and no weights."""
    monkeypatch.chdir(tmp_path)
    for name, config in CONFIGS.items():
        config.save_pretrained(name)
    return tmp_path


def refusals(arguments, capsys):
    """{target: {kind of assistant: refusal}} as the command prints it as JSON."""
    assert cli.main(["targets", *arguments, "--json"]) == 0
    answers = json.loads(capsys.readouterr().out)
    return {answer["target"]: answer["refusals"] for answer in answers}


def test_llama_and_llava_are_served_by_every_assistant(folder, capsys):
    found = refusals(["llama", "llava/config.json"], capsys)
    served = {"head": "", "WindowedDraft": "", "SelfSpeculation": ""}
    assert found == {"llama": served, "llava/config.json": served}


def test_a_target_without_rope_refuses_windows_and_takes_a_head(folder, capsys):
    found = refusals(["gpt2"], capsys)["gpt2"]
    assert found["head"] == ""
    assert "no single rotary embedding" in found["SelfSpeculation"]


def test_a_target_that_reads_trees_otherwise_is_refused_as_generate_refuses_it(folder, capsys):
    assert cli.main(["targets", "gpt_neo"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "gpt_neo (GPTNeoForCausalLM)"
    assert len(lines) == 4
    for line in lines[1:]:
        assert "refused: GPTNeoForCausalLM does not read draft trees as it reads text" in line


def test_the_embedded_target_is_served(capsys):
    assert refusals(["smollm2"], capsys)["smollm2"]["head"] == ""


def test_what_is_no_language_model_is_an_error_of_one_line(folder, capsys):
    (folder / "vit").mkdir()
    (folder / "vit" / "config.json").write_text('{"model_type": "vit"}')
    assert cli.main(["targets", "vit"]) == 2
    message = capsys.readouterr().err
    assert message.startswith("eagle-hf targets: the config of vit is a ViTConfig")
