"""The published folder: everything in it, and a card whose figures are those of metrics.json."""

import json
import re
import runpy
import sys
from pathlib import Path

import pytest
import torch
import yaml
from huggingface_hub import ModelCard, constants
from tiny import tiny_head, tiny_target

from eagle_hf import Eagle3DraftHead
from eagle_hf.hub.cards import results_table, write_card
from eagle_hf.provenance import weights_fingerprint

RECIPE = Path(__file__).parents[2] / "recipes" / "publish.py"
TREE = "dynamic:4:6:24"


def result(tau, plain, fast, identical=1.0):
    return dict(
        prompts=20,
        tau=tau,
        tau_interval=[tau - 0.1, tau + 0.1],
        alpha=[0.6, 0.5],
        plain_tokens_per_second=plain,
        fast_tokens_per_second=fast,
        speedup=fast / plain,
        identical=identical,
        ties=0,
        overhead_ms=2.0,
        overhead_share=0.05,
    )


def setting(dtype, tree, temperature, tau, plain, fast, **more):
    results = {"code": result(tau, plain, fast, **more), "all": result(tau, plain, fast, **more)}
    machine = {
        "device": "a processor",
        "threads": 2,
        "dtype": dtype,
        "torch": "2.13.0",
        "transformers": "5.23.0",
    }
    return dict(
        dtype=dtype,
        tree=tree,
        temperature=temperature,
        max_new_tokens=64,
        left_out=20,
        machine=machine,
        results=results,
    )


METRICS = {
    "settings": [
        setting("bfloat16", TREE, 0.0, 2.4, 30, 48, identical=0.9),
        setting("bfloat16", "chain:4:1:4", 0.0, 1.9, 30, 40),
        setting("bfloat16", TREE, 1.0, 2.1, 30, 42),
        setting("float32", TREE, 0.0, 2.3, 20, 25),
    ]
}


def test_the_table_sets_speed_against_the_faster_plain_run():
    rows = results_table(METRICS, TREE).splitlines()
    assert (
        rows[2]
        == "| code, greedy | 2.40 (2.30-2.50) | 1.90 (1.80-2.00) | 0.60 0.50 | 1.60x | 0.83x | 100% |"
    )
    assert rows[4] == "| code, T=1 | 2.10 (2.00-2.20) |  |  | 1.40x |  |  |" and len(rows) == 6


def test_a_tree_that_was_not_measured_is_refused(tmp_path):
    with pytest.raises(
        ValueError,
        match=f"dynamic:9:9:9 was not measured greedily, but chain:4:1:4 at T=0, {TREE} at T=0, {TREE} at T=1",
    ):
        results_table(METRICS, "dynamic:9:9:9")
    with pytest.raises(ValueError, match="holds no metrics.json"):
        write_card(tmp_path, title="x", base_model="y", limits="z")


def card_of(folder, metrics=METRICS, **words):
    """The card that is written for a tiny head, as the Hub reads it."""
    tiny_head(tiny_target(dtype=torch.float32), eagle_hf={"trained_length": 640}).save_pretrained(
        folder
    )
    (folder / "metrics.json").write_text(json.dumps({"trained": {"data": "words"}} | metrics))
    write_card(
        folder, **dict(title="A head", base_model="someone/their-model", limits="None.") | words
    )
    return ModelCard.load(folder / "README.md")


def test_the_metadata_say_whose_head_it_is_and_what_it_does(tmp_path):
    data = card_of(tmp_path, license="mit", datasets=["some/texts"]).data
    assert (data.base_model, data.base_model_relation, data.license) == (
        "someone/their-model",
        "adapter",
        "mit",
    )
    assert (data.library_name, data.pipeline_tag, data.datasets) == (
        "eagle_hf",
        "text-generation",
        ["some/texts"],
    )
    assert {"eagle3", "speculative-decoding", "custom_generate"} <= set(data.tags)


def test_every_category_is_in_the_model_index(tmp_path):
    results = METRICS["settings"][0]["results"] | {
        "poems": result(3.1, 20, 50),
        "silence": result(0, 20, 50) | {"tau": None},
    }
    data = card_of(tmp_path, {"settings": [METRICS["settings"][0] | {"results": results}]}).data
    measured = {
        (r.dataset_name, r.dataset_type, r.metric_type): r.metric_value for r in data.eval_results
    }
    assert measured == {
        ("HumanEval", "openai/openai_humaneval", "tau"): 2.4,
        ("HumanEval", "openai/openai_humaneval", "speedup"): 1.6,
        ("poems", "poems", "tau"): 3.1,
        ("poems", "poems", "speedup"): 2.5,
    }


def test_the_card_says_what_the_head_was_made_of_and_how_every_engine_serves_it(tmp_path):
    (tmp_path / "chat_template.jinja").write_text("{{ messages }}")
    text = card_of(tmp_path).text
    assert (
        "draft vocabulary: 24 of 31 tokens" in text
        and "longest conversation: 640 tokens" in text
        and "sha256 f24189f0" in text
    )
    assert text.count("It was trained on texts of up to 640 tokens") == 1
    for command in (
        "vllm serve someone/their-model",
        "sglang.launch_server",
        "llama-server -m",
        "optimum-cli export openvino",
    ):
        assert command in text.split("## Serve")[1].split("## Trained on")[0]


HOSTILE = "x\n---\nlicense: mit\n---\n# [a](javascript:b) <script>alert(1)</script> | `c` {{ 7 * 7 }} &lt;"


def test_no_text_ends_the_metadata_or_becomes_html(tmp_path):
    measured = json.loads(
        json.dumps(METRICS["settings"][0]).replace("a processor", json.dumps(HOSTILE)[1:-1])
    )
    measured["results"][HOSTILE] = result(2.0, 30, 40)
    poisoned = {
        "settings": [measured],
        "trained": {HOSTILE: HOSTILE},
        "scaling": {"summary": HOSTILE},
    }
    card = card_of(tmp_path, poisoned, title=HOSTILE, limits=HOSTILE, license=HOSTILE)
    assert (
        card.data.license == HOSTILE
        and card.data.eval_results[0].dataset_name == "HumanEval"
        and card.data.base_model == "someone/their-model"
    )
    body, limits = card.text.split("## Limits")
    assert (
        "<script" not in card.text
        and not re.search(r"(?<!\\)\]\(javascript", body)
        and "49" not in body.split("## Measured")[0]
    )
    assert limits.strip() == HOSTILE.replace("<script>", "&lt;script>").replace(
        "</script>", "&lt;/script>"
    )
    table = [line for line in body.splitlines() if line.startswith("|")]
    assert len(table) == 5 and {len(re.findall(r"(?<!\\)\|", line)) for line in table} == {7}


@pytest.mark.parametrize(
    "words",
    [dict(base_model='x"); import os'), dict(base_model="a/b\n"), dict(datasets=["<b>"])],
    ids=str,
)
def test_what_is_no_hub_id_is_refused(tmp_path, words):
    with pytest.raises(ValueError, match="is no hub id"):
        card_of(tmp_path, **words)


def test_the_recipe_assembles_the_whole_folder(tmp_path, monkeypatch):
    head = tiny_head(tiny_target(dtype=torch.float32))
    head.save_pretrained(tmp_path / "head")
    measured = METRICS | {"head_sha256": weights_fingerprint(head)}
    for folder, metrics in (
        ("head", {"response_tokens": 1234567, "steps": 9}),
        ("evaluation", measured),
        ("curve", {"summary": "More helps."}),
    ):
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / "metrics.json").write_text(json.dumps(metrics))
    (tmp_path / "curve" / "scaling.png").write_bytes(b"a picture")
    config = dict(
        head="head",
        evaluation="evaluation",
        scaling="curve",
        output_dir="out",
        title="A head",
        base_model="someone/their-model",
        license="mit",
        limits="Only for tests.",
        trained={"data": "words"},
    )
    (tmp_path / "publish.yaml").write_text(yaml.safe_dump(config))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["publish.py", "--config", "publish.yaml"])
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    runpy.run_path(str(RECIPE), run_name="__main__")
    made = {
        path.relative_to(tmp_path / "out").as_posix()
        for path in (tmp_path / "out").rglob("*")
        if path.is_file()
    }
    assert made == {
        "README.md",
        "config.json",
        "model.safetensors",
        "metrics.json",
        "run.json",
        "acceptance.png",
        "scaling.png",
        "custom_generate/generate.py",
    }
    head = Eagle3DraftHead.from_pretrained(tmp_path / "out")
    assert head.dtype == torch.bfloat16 and str(head.tree) == TREE
    card = ModelCard.load(tmp_path / "out" / "README.md")
    assert (
        results_table(METRICS, TREE) in card.text
        and "response tokens: 1,234,567" in card.text
        and "More helps." in card.text
    )
    assert "none of which the head was chosen on" in card.text
    assert card.data.base_model == "someone/their-model" and card.data.license == "mit"
    assert {(r.dataset_name, r.metric_type): r.metric_value for r in card.data.eval_results} == {
        ("HumanEval", "tau"): 2.4,
        ("HumanEval", "speedup"): 1.6,
    }
    (tmp_path / "evaluation" / "metrics.json").write_text(
        json.dumps(METRICS | {"head_sha256": "another"})
    )
    with pytest.raises(ValueError, match="evaluation measured another head than head"):
        runpy.run_path(str(RECIPE), run_name="__main__")
