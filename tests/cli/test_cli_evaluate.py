"""`eagle-hf evaluate`: a table on the screen, a report in a folder, errors in one line."""

import json

import torch
from tiny import tiny_head, tiny_target, word_tokenizer

from eagle_hf import cli
from eagle_hf.evaluation import weights_fingerprint


def test_evaluate_prints_a_table_and_writes_the_report(tmp_path, monkeypatch, capsys):
    target = tiny_target(dtype=torch.float32)
    target.save_pretrained(tmp_path / "target")
    word_tokenizer().save_pretrained(tmp_path / "target")
    head = tiny_head(target)
    head.save_pretrained(tmp_path / "head")
    row = {"turns": ["w5 w6"], "category": "mine"}
    (tmp_path / "asked.jsonl").write_text(json.dumps(row) + "\n")
    monkeypatch.chdir(tmp_path)
    flags = (
        "--target target --head head --categories asked.jsonl --dtype float32 "
        "--max-new-tokens 20 --tree chain:3:1:3 --out out"
    )
    assert cli.main(["evaluate", *flags.split()]) == 0
    assert "| mine | 1 |" in capsys.readouterr().out
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert metrics["head_fingerprint"] == weights_fingerprint(head)
    (setting,) = metrics["settings"]
    assert setting["results"]["all"]["identical"] == 1.0
    assert setting["tree"] == "chain:3:1:3"
    assert (setting["temperature"], setting["max_new_tokens"]) == (0.0, 20)
    report = (tmp_path / "out" / "report.md").read_text()
    assert "- target: target\n- head: head\n- tree: chain:3:1:3\n" in report
    assert (tmp_path / "out" / "acceptance.png").is_file()


def test_errors_are_one_line_and_status_2(capsys):
    assert cli.main(["evaluate", "--target", "/nowhere.gguf", "--head", "x"]) == 2
    assert capsys.readouterr().err == (
        "eagle-hf evaluate: /nowhere.gguf does not exist; "
        "give the path of a .gguf file, a folder or a hub id\n"
    )
