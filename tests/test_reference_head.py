"""The head that ships with the project: whole, small, and every figure of it was measured."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from eagle_hf import Eagle3DraftHead
from eagle_hf.hub.cards import write_card
from eagle_hf.hub.check import check
from eagle_hf.hub.publish import GENERATE, OWN_GENERATE
from eagle_hf.provenance import weights_fingerprint

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "model_cards" / "smollm2-135m-instruct-eagle3"


@pytest.fixture(scope="module")
def metrics():
    return json.loads((FOLDER / "metrics.json").read_text())


def test_it_opens_in_bfloat16_and_is_small_enough_to_ship():
    head = Eagle3DraftHead.from_pretrained(FOLDER, dtype="auto")
    assert head.dtype == torch.bfloat16
    assert head.dialect == "eagle_hf"
    assert (FOLDER / "model.safetensors").stat().st_size <= 32e6


def test_no_engine_refuses_it():
    report = check(FOLDER)
    assert not report.failed, report.text()


def test_the_weights_are_those_that_were_measured(metrics):
    head = Eagle3DraftHead.from_pretrained(FOLDER, dtype="auto")
    assert metrics["head_fingerprint"] == weights_fingerprint(head)


def test_the_card_is_built_from_its_metrics(tmp_path):
    folder = shutil.copytree(FOLDER, tmp_path / "head")
    settings = json.loads((FOLDER / "run.json").read_text())["settings"]
    names = ("title", "base_model", "limits", "license", "datasets")
    write_card(folder, **{name: settings[name] for name in names})
    assert (folder / "README.md").read_text() == (FOLDER / "README.md").read_text()


def test_its_custom_generate_is_the_packages_own():
    assert (FOLDER / GENERATE).read_bytes() == OWN_GENERATE.read_bytes()


def test_it_was_not_measured_on_what_it_was_chosen_or_trained_on(metrics):
    assert all(setting["left_out"] == 20 for setting in metrics["settings"])
    assert {setting["dtype"] for setting in metrics["settings"]} == {"bfloat16", "float32"}
    exact = [setting for setting in metrics["settings"] if setting["dtype"] == "float32"]
    assert exact
    for setting in exact:
        assert setting["results"]["all"]["identical"] == 1.0
