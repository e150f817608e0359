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
from eagle_hf.hub.cards import head_fingerprint, results_table, write_card
from eagle_hf.provenance import weights_fingerprint

RECIPE = Path(__file__).parents[2] / "recipes" / "publish.py"
TREE = "dynamic:4:6:24"


def result(tau, plain, fast, identical=1.0):
    """What was measured of one category."""
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
    """One entry of metrics.json, with the same figures for its category and for all."""
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
        results={
            "code": result(tau, plain, fast, **more),
            "all": result(tau, plain, fast, **more),
        },
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
    assert len(rows) == 6
    assert rows[2] == (
        "| code, greedy | 2.40 (2.30-2.50) | 1.90 (1.80-2.00) | 0.60 0.50 | 1.60x | 0.83x | 100% |"
    )
    assert rows[4] == "| code, T=1 | 2.10 (2.00-2.20) |  |  | 1.40x |  |  |"


def test_a_tree_that_was_not_measured_is_refused():
    measured = f"chain:4:1:4 at T=0, {TREE} at T=0, {TREE} at T=1"
    refusal = f"dynamic:9:9:9 was not measured greedily, but {measured}"
    with pytest.raises(ValueError, match=refusal):
        results_table(METRICS, "dynamic:9:9:9")


def test_a_head_that_was_not_measured_gets_no_card(tmp_path):
    with pytest.raises(ValueError, match="holds no metrics.json"):
        write_card(tmp_path, title="x", base_model="y", limits="z")


@pytest.mark.parametrize(
    "metrics, expected",
    [
        ({"head_fingerprint": "new"}, "new"),
        ({"head_sha256": "old"}, "old"),
        ({"head_fingerprint": "new", "head_sha256": "old"}, "new"),
        ({}, None),
    ],
    ids=str,
)
def test_the_fingerprint_is_read_under_its_older_name_too(metrics, expected):
    assert head_fingerprint(metrics) == expected


def card_of(folder, metrics=METRICS, **words):
    """The card that is written for a tiny head, as the Hub reads it."""
    head = tiny_head(tiny_target(dtype=torch.float32), eagle_hf={"trained_length": 640})
    head.save_pretrained(folder)
    (folder / "metrics.json").write_text(json.dumps({"trained": {"data": "words"}} | metrics))
    settings = dict(title="A head", base_model="someone/their-model", limits="None.")
    write_card(folder, **settings | words)
    return ModelCard.load(folder / "README.md")


def test_no_card_is_written_for_a_tree_that_was_not_measured(tmp_path):
    chains = [entry for entry in METRICS["settings"] if entry["tree"] != TREE]
    with pytest.raises(ValueError, match="was not measured greedily"):
        card_of(tmp_path, {"settings": chains})
    assert not (tmp_path / "README.md").exists()


def figures_of(card):
    """What model-index says of each benchmark."""
    figures = {}
    for entry in card.data.eval_results:
        key = (entry.dataset_name, entry.dataset_type, entry.metric_type)
        figures[key] = entry.metric_value
    return figures


def test_the_metadata_say_whose_head_it_is_and_what_it_does(tmp_path):
    data = card_of(tmp_path, license="mit", datasets=["some/texts"]).data
    assert data.base_model == "someone/their-model"
    assert data.base_model_relation == "adapter"
    assert data.license == "mit"
    assert data.library_name == "eagle_hf"
    assert data.pipeline_tag == "text-generation"
    assert data.datasets == ["some/texts"]
    assert {"eagle3", "speculative-decoding", "custom_generate"} <= set(data.tags)


def test_every_category_is_in_the_model_index(tmp_path):
    first = METRICS["settings"][0]
    poems = result(3.1, 20, 50)
    silence = result(0, 20, 50) | {"tau": None}
    results = first["results"] | {"poems": poems, "silence": silence}
    card = card_of(tmp_path, {"settings": [first | {"results": results}]})
    assert figures_of(card) == {
        ("HumanEval", "openai/openai_humaneval", "tau"): 2.4,
        ("HumanEval", "openai/openai_humaneval", "speedup"): 1.6,
        ("poems", "poems", "tau"): 3.1,
        ("poems", "poems", "speedup"): 2.5,
    }


def test_the_card_says_what_the_head_was_made_of(tmp_path):
    (tmp_path / "chat_template.jinja").write_text("{{ messages }}")
    text = card_of(tmp_path).text
    assert "draft vocabulary: 24 of 31 tokens" in text
    assert "longest conversation: 640 tokens" in text
    assert "sha256 f24189f0" in text


def test_the_card_says_how_every_engine_serves_it(tmp_path):
    text = card_of(tmp_path).text
    assert text.count("It was trained on texts of up to 640 tokens") == 1
    serving = text.split("## Serve")[1].split("## Trained on")[0]
    for command in (
        "vllm serve someone/their-model",
        "sglang.launch_server",
        "llama-server -m",
        "optimum-cli export openvino",
    ):
        assert command in serving


HOSTILE = (
    "x\n---\nlicense: mit\n---\n# [a](javascript:b) <script>alert(1)</script> "
    "| `c` {{ 7 * 7 }} &lt;"
)


@pytest.fixture
def poisoned(tmp_path):
    """The card of a head whose every text is hostile."""
    hostile_in_json = json.dumps(HOSTILE)[1:-1]
    first = json.dumps(METRICS["settings"][0])
    measured = json.loads(first.replace("a processor", hostile_in_json))
    measured["results"][HOSTILE] = result(2.0, 30, 40)
    metrics = {
        "settings": [measured],
        "trained": {HOSTILE: HOSTILE},
        "scaling": {"summary": HOSTILE},
    }
    return card_of(tmp_path, metrics, title=HOSTILE, limits=HOSTILE, license=HOSTILE)


def test_no_text_ends_the_metadata(poisoned):
    assert poisoned.data.license == HOSTILE
    assert poisoned.data.eval_results[0].dataset_name == "HumanEval"
    assert poisoned.data.base_model == "someone/their-model"


def test_no_text_becomes_html_or_a_template(poisoned):
    body, limits = poisoned.text.split("## Limits")
    assert "<script" not in poisoned.text
    assert not re.search(r"(?<!\\)\]\(javascript", body)
    assert "49" not in body.split("## Measured")[0]
    shown = HOSTILE.replace("<script>", "&lt;script>").replace("</script>", "&lt;/script>")
    assert limits.strip() == shown


def test_no_text_breaks_the_table(poisoned):
    body = poisoned.text.split("## Limits")[0]
    table = [line for line in body.splitlines() if line.startswith("|")]
    assert len(table) == 5
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in table} == {7}


@pytest.mark.parametrize(
    "words",
    [dict(base_model='x"); import os'), dict(base_model="a/b\n"), dict(datasets=["<b>"])],
    ids=str,
)
def test_what_is_no_hub_id_is_refused(tmp_path, words):
    with pytest.raises(ValueError, match="is no hub id"):
        card_of(tmp_path, **words)


@pytest.fixture
def publish(tmp_path, monkeypatch):
    """publish() runs the recipe; the folders of the steps before it lie there."""
    head = tiny_head(tiny_target(dtype=torch.float32))
    head.save_pretrained(tmp_path / "head")
    metrics = {
        "head": {"response_tokens": 1234567, "steps": 9},
        "evaluation": METRICS | {"head_sha256": weights_fingerprint(head)},
        "curve": {"summary": "More helps."},
    }
    for folder, written in metrics.items():
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / "metrics.json").write_text(json.dumps(written))
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

    def run():
        runpy.run_path(str(RECIPE), run_name="__main__")

    return run


def test_the_recipe_assembles_the_whole_folder(publish, tmp_path):
    publish()
    out = tmp_path / "out"
    made = set()
    for path in out.rglob("*"):
        if path.is_file():
            made.add(path.relative_to(out).as_posix())
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
    head = Eagle3DraftHead.from_pretrained(out)
    assert head.dtype == torch.bfloat16
    assert str(head.tree) == TREE
    card = ModelCard.load(out / "README.md")
    assert results_table(METRICS, TREE) in card.text
    assert "response tokens: 1,234,567" in card.text
    assert "More helps." in card.text
    assert "none of which the head was chosen on" in card.text
    assert card.data.base_model == "someone/their-model"
    assert card.data.license == "mit"
    assert figures_of(card) == {
        ("HumanEval", "openai/openai_humaneval", "tau"): 2.4,
        ("HumanEval", "openai/openai_humaneval", "speedup"): 1.6,
    }


def test_the_recipe_refuses_figures_of_another_head(publish, tmp_path):
    other = METRICS | {"head_sha256": "another"}
    (tmp_path / "evaluation" / "metrics.json").write_text(json.dumps(other))
    with pytest.raises(ValueError, match="evaluation measured another head than head"):
        publish()
