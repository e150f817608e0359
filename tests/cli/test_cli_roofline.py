"""`eagle-hf roofline`: the module's numbers, by a model's name or its config, and marked."""

import pytest
from transformers import LlamaConfig

from eagle_hf import cli
from eagle_hf.evaluation import simulated_shape
from eagle_hf.evaluation.charts import read_sources
from eagle_hf.planning.roofline import (
    MACHINES,
    MAGICDEC_A100,
    MAGICDEC_H100,
    SHAPES,
    Setting,
    eagle_head,
    forward_seconds,
)

LLAMA2 = SHAPES["Llama-2-7B-32K"]
LLAMA3 = SHAPES["Llama-3.1-8B"]
A100 = MACHINES["A100"]


def cells(screen):
    """{(machine, batch, length): (self-speculation, EAGLE-3 tree)} of the printed table."""
    found = {}
    for line in screen.splitlines():
        parts = [part.strip() for part in line.strip("|").split("|")]
        if len(parts) == 5 and parts[0] in MACHINES:
            machine, batch, length, own, tree = parts
            found[machine, int(batch), int(length)] = (own, tree)
    return found


def test_self_speculation_is_tokens_over_the_cost_of_a_round(capsys):
    command = "roofline --model Llama-2-7B-32K --machine A100 --gpus 8 --batches 64 --lengths 16000"
    assert cli.main([*command.split(), "--gamma", "3", "--alpha", "0.8"]) == 0
    seconds = {}
    for name, length, tokens in (("draft", 512, 1), ("plain", 16000, 1), ("verify", 16000, 4)):
        seconds[name] = forward_seconds(LLAMA2, A100, MAGICDEC_A100, 64, length, tokens, gpus=8)
    tau = 1 + 0.8 + 0.64 + 0.512
    gain = tau * seconds["plain"] / (3 * seconds["draft"] + seconds["verify"])
    own, _ = cells(capsys.readouterr().out)["A100", 64, 16000]
    assert own == f"{gain:.2f}x"


def test_a_tree_pays_for_one_row_and_not_for_many(capsys):
    command = "roofline --model Llama-3.1-8B --machine H100 --gpus 8 --batches 1 256 --lengths 1000"
    assert cli.main(command.split()) == 0
    found = cells(capsys.readouterr().out)
    for batch in (1, 256):
        setting = Setting(LLAMA3, MACHINES["H100"], batch, 1000, gpus=8)
        gain = eagle_head(
            setting, MAGICDEC_H100, tau=2.9, nodes=8, depth=3, top_k=5, draft_vocab=32000
        )
        assert found["H100", batch, 1000][1] == f"{gain.value:.2f}x"
    assert float(found["H100", 1, 1000][1].rstrip("x")) > 2.5
    assert float(found["H100", 256, 1000][1].rstrip("x")) < 1


def test_what_does_not_fit_is_said(capsys):
    command = "roofline --model Llama-2-7B-32K --machine A100 --gpus 8 --batches 128"
    assert cli.main([*command.split(), "--lengths", "16000"]) == 0
    assert cells(capsys.readouterr().out)["A100", 128, 16000] == ("does not fit", "does not fit")


def test_table_and_plot_are_written_and_marked_as_simulated(tmp_path, capsys):
    command = "roofline --model Qwen3-8B --machine A100 H200 --batches 1 8 --lengths 1000 8000"
    assert cli.main([*command.split(), "--output-dir", str(tmp_path / "out")]) == 0
    text = (tmp_path / "out" / "roofline.md").read_text()
    assert text.startswith("Simulated speed-up over plain decoding: Qwen3-8B on 1 GPU(s)")
    assert text in capsys.readouterr().out
    assert len(cells(text)) == 8
    assert text.count("(simulated)") == 2
    (source,) = read_sources([tmp_path / "out"]).files
    assert (source.kind, source.is_simulated) == ("simulation", True)
    picture = (tmp_path / "out" / "roofline.png").read_bytes()
    assert picture.startswith(b"\x89PNG")


@pytest.mark.parametrize("name", ["", "config.json"])
def test_a_model_is_known_by_its_config(tmp_path, name):
    config = LlamaConfig(
        num_hidden_layers=32,
        hidden_size=4096,
        num_attention_heads=32,
        num_key_value_heads=8,
        intermediate_size=14336,
        vocab_size=128256,
        tie_word_embeddings=False,
    )
    config.save_pretrained(tmp_path)
    shape = simulated_shape(str(tmp_path / name))
    assert shape.matrix_parameters == LLAMA3.matrix_parameters
    assert shape.parameters == LLAMA3.parameters
    assert shape.kv_bytes_per_token == LLAMA3.kv_bytes_per_token


@pytest.mark.parametrize(
    "flags, reason",
    [
        ("--alpha 1.5", "alpha 1.5 and gamma 3 arrived"),
        ("--batches 0", "batch 0, length 1000 and gpus 1 arrived"),
        ("--tau 0.5", "tau 0.5"),
        ("--window 0", "window is 0"),
    ],
)
def test_impossible_numbers_are_refused(capsys, flags, reason):
    command = "roofline --model Qwen3-8B --machine H100"
    assert cli.main([*command.split(), *flags.split()]) == 2
    assert reason in capsys.readouterr().err
