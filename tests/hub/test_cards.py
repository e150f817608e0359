"""The published folder: everything in it, and a card whose figures are those of metrics.json."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from huggingface_hub import ModelCard

from eagle_hf import Eagle3DraftHead
from eagle_hf.hub.cards import results_table, write_card
from tiny import tiny_head, tiny_target

RECIPE = Path(__file__).parents[2] / "recipes" / "publish.py"
TREE = "dynamic:4:6:24"


def result(tau, plain, fast, identical=1.0):
    return dict(
        prompts=20, tau=tau, tau_interval=[tau - 0.1, tau + 0.1], alpha=[0.6, 0.5], plain_tokens_per_second=plain, fast_tokens_per_second=fast,
        speedup=fast / plain, identical=identical, ties=0, overhead_ms=2.0,
    )


def setting(dtype, tree, temperature, tau, plain, fast, **more):
    results = {"code": result(tau, plain, fast, **more), "all": result(tau, plain, fast, **more)}
    machine = {"device": "a processor", "threads": 2, "dtype": dtype, "torch": "2.13.0", "transformers": "5.23.0"}
    return dict(dtype=dtype, tree=tree, temperature=temperature, max_new_tokens=64, left_out=20, machine=machine, results=results)


METRICS = {"settings": [
    setting("bfloat16", TREE, 0.0, 2.4, 30, 48, identical=0.9), setting("bfloat16", "chain:4:1:4", 0.0, 1.9, 30, 40),
    setting("bfloat16", TREE, 1.0, 2.1, 30, 42), setting("float32", TREE, 0.0, 2.3, 20, 25),
]}


def test_the_table_sets_speed_against_the_faster_plain_run():
    rows = results_table(METRICS, TREE).splitlines()
    assert rows[2] == "| code, greedy | 2.40 (2.30-2.50) | 1.90 (1.80-2.00) | 0.60 0.50 | 1.60x | 0.83x | 100% |"
    assert rows[4] == "| code, T=1 | 2.10 (2.00-2.20) |  |  | 1.40x |  |  |" and len(rows) == 6


def test_a_tree_that_was_not_measured_is_refused(tmp_path):
    with pytest.raises(ValueError, match=f"dynamic:9:9:9 was not measured greedily, but chain:4:1:4 at T=0, {TREE} at T=0, {TREE} at T=1"):
        results_table(METRICS, "dynamic:9:9:9")
    with pytest.raises(ValueError, match="holds no metrics.json"):
        write_card(tmp_path, title="x", base_model="y", limits="z")


def test_the_recipe_assembles_the_whole_folder(tmp_path):
    tiny_head(tiny_target(dtype=torch.float32)).save_pretrained(tmp_path / "head")
    for folder, metrics in (("head", {"response_tokens": 1234567, "steps": 9}), ("evaluation", METRICS), ("curve", {"summary": "More helps."})):
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / "metrics.json").write_text(json.dumps(metrics))
    (tmp_path / "curve" / "scaling.png").write_bytes(b"a picture")
    config = dict(
        head="head", evaluation="evaluation", scaling="curve", output_dir="out", title="A head", base_model="someone/their-model", license="mit",
        limits="Only for tests.", trained={"data": "words"},
    )
    (tmp_path / "publish.yaml").write_text(yaml.safe_dump(config))
    done = subprocess.run([sys.executable, RECIPE, "--config", "publish.yaml"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert {path.name for path in (tmp_path / "out").iterdir()} >= {"README.md", "config.json", "model.safetensors", "metrics.json", "acceptance.png", "scaling.png"}
    head = Eagle3DraftHead.from_pretrained(tmp_path / "out")
    assert head.dtype == torch.bfloat16 and str(head.tree) == TREE
    card = ModelCard.load(tmp_path / "out" / "README.md")
    assert results_table(METRICS, TREE) in card.text and "response tokens: 1,234,567" in card.text and "More helps." in card.text
    assert "none of which the head was chosen on" in card.text
    assert card.data.base_model == "someone/their-model" and card.data.license == "mit"
    assert {(r.dataset_name, r.metric_type): r.metric_value for r in card.data.eval_results} == {("HumanEval", "tau"): 2.4, ("HumanEval", "speedup"): 1.6}
