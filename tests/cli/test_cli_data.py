"""`eagle-hf data`: the file, flags over it, the plan, and the end of a run."""

import json
from pathlib import Path

import pytest
import torch
import yaml
from tiny import tiny_target, word_tokenizer

from eagle_hf.cli import main
from eagle_hf.pipeline import DataConfig
from eagle_hf.pipeline.steps import default_settings


@pytest.fixture(scope="module")
def target(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli-data") / "target"
    tiny_target(dtype=torch.float32, eos_token_id=2).save_pretrained(folder)
    word_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture
def config(target, tmp_path):
    rows = [{"id": f"q{number}", "turns": [f"w{5 + number} w9"]} for number in range(6)]
    (tmp_path / "mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = {
        "target": str(target),
        "target_dtype": "float32",
        "output_dir": str(tmp_path / "out"),
        "prompts": {"sources": [str(tmp_path / "mine.jsonl")]},
        "answers": {"max_new_tokens": 8, "batch_size": 4},
    }
    path = tmp_path / "data.yaml"
    path.write_text(yaml.safe_dump(settings))
    return path


def run(config, *flags):
    return main(["data", "--config", str(config), *flags])


def test_a_run_ends_with_its_counts_and_records_what_made_it(config, tmp_path, capsys):
    assert run(config, "--answers.max_new_tokens", "5", "--max-prompts", "4") == 0
    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert last["answers"]["prompts"] == 4
    made_by = json.loads((tmp_path / "out" / "run.json").read_text())["settings"]
    assert made_by["answers"]["max_new_tokens"] == 5
    assert made_by["max_prompts"] == 4


def test_wrong_settings_are_one_line_and_nothing_is_written(config, tmp_path, capsys):
    config.write_text(config.read_text() + "lerning_rate: 1\n")
    assert run(config) == 2
    assert "eagle-hf data: there is no setting lerning_rate" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--dry-run", "--merge"], "dry_run and merge arrived together"),
        (["--merge", "--only", "answers"], "only arrived with merge"),
        (["--hours", "3"], "add --dry-run"),
        (["--dry-run", "--sample", "0"], "sample is 0"),
        (["--shard", "4/4"], "counts from 0"),
        (["--executor", "dask"], "executor is 'dask'"),
        (["--only", "exampels"], "'exampels' is no step"),
    ],
)
def test_flags_that_do_not_fit_are_refused(config, capsys, flags, message):
    assert run(config, *flags) == 2
    assert message in capsys.readouterr().err


def test_a_dry_run_plans_from_a_sample_and_leaves_nothing(config, tmp_path, capsys):
    assert run(config, "--dry-run", "--hours", "0.001") == 0
    out = capsys.readouterr().out
    assert "prompts       begins" in out
    assert "answers       follows privacy" in out
    assert "6 prompts, from 4 of them answered here" in out
    assert "of conversations" in out
    assert "of features" not in out
    assert not (tmp_path / "out").exists()


def test_a_dry_run_plans_what_is_left_with_the_bytes_of_features(config, capsys):
    steps = ["--steps", "prompts", "answers", "conversations", "examples", "features"]
    assert run(config, *steps, "--only", "prompts", "answers", "--max_prompts", "2") == 0
    capsys.readouterr()
    assert run(config, *steps, "--dry-run", "--sample", "3") == 0
    out = capsys.readouterr().out
    assert "answers       goes on: the output of prompts changed" in out
    assert "4 prompts, from 3 of them answered here" in out
    assert "of features" in out
    assert run(config, *steps) == 0
    capsys.readouterr()
    assert run(config, *steps, "--dry-run") == 0
    assert "every prompt has its answer" in capsys.readouterr().out


def test_shards_and_their_merge_from_the_command_line(config, tmp_path, capsys):
    assert run(config, "--only", "prompts", "privacy") == 0
    assert run(config, "--shard", "0/2") == 0
    assert run(config, "--merge") == 2
    assert "shard 1/2 is not finished" in capsys.readouterr().err
    assert run(config, "--shard", "1/2") == 0
    assert run(config, "--merge") == 0
    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert last["conversations"]["unanswered"] == last["answers"]["skipped"]
    assert (tmp_path / "out" / "examples" / "examples.jsonl").is_file()


def test_every_setting_has_a_flag_with_its_default_in_the_help(capsys):
    with pytest.raises(SystemExit):
        main(["data", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    for name in default_settings().keys() - {"answers.in_process", "privacy"}:
        assert f"--{name}" in text
    assert "Longest answer, in tokens. (default: 256)" in text
    assert DataConfig.__doc__


def test_true_and_false_may_both_be_given(config, tmp_path):
    settings = yaml.safe_load(config.read_text())
    settings["prompts"]["keep_contaminated"] = True
    config.write_text(yaml.safe_dump(settings))
    assert run(config, "--only", "prompts", "--no-prompts.keep_contaminated") == 0
    record = json.loads((Path(tmp_path) / "out" / "prompts" / "step.json").read_text())
    assert record["settings"]["prompts.keep_contaminated"] is False
