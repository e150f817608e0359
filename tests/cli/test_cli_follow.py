"""`eagle-hf follow`: one call from the command line, as cron makes it."""

import json

import torch
from tiny import tiny_head, tiny_target, word_tokenizer

from eagle_hf import Eagle3DraftHead, TreeConfig, cli

FLAGS = "--target target --head head --log log --out out --dtype float32"


def make_service(folder, count):
    """A target, a head, and so many answers in the log."""
    target = tiny_target(dtype=torch.float32, initializer_range=0.1)  # repeats itself
    target.save_pretrained(folder / "target")
    word_tokenizer().save_pretrained(folder / "target")
    head = tiny_head(target)
    head.tree = TreeConfig("chain", depth=2)
    head.save_pretrained(folder / "head")
    prompts = torch.randint(3, 31, (count, 4), generator=torch.Generator().manual_seed(0))
    settings = dict(max_new_tokens=8, do_sample=False, eos_token_id=None, pad_token_id=0)
    output = target.generate(prompts, attention_mask=torch.ones_like(prompts), **settings)
    (folder / "log").mkdir()
    with (folder / "log" / "served.jsonl").open("w") as log:
        for ids in output.tolist():
            choices = [{"token_ids": ids[4:], "finish_reason": "length"}]
            log.write(json.dumps({"prompt_token_ids": ids[:4], "choices": choices}) + "\n")


def test_follow_runs_a_cycle_and_then_says_that_there_is_nothing_new(tmp_path, monkeypatch, capsys):
    make_service(tmp_path, 48)
    monkeypatch.chdir(tmp_path)
    flags = f"{FLAGS} --min-new 48 --epochs 5 --learning-rate 2e-2 --keep 1"
    assert cli.main(["follow", *flags.split()]) == 0
    assert "published as version 2" in capsys.readouterr().out
    Eagle3DraftHead.from_pretrained("out/current")
    assert cli.main(["follow", *flags.split()]) == 0
    assert capsys.readouterr().out == (
        "nothing new to learn: 0 new conversations, a cycle begins with 48; current is version 2\n"
    )


def test_follow_without_a_log_is_one_line_and_status_2(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["follow", *FLAGS.split()]) == 2
    assert capsys.readouterr().err == (
        "eagle-hf follow: the log log is no folder; give the one that the service writes its JSON "
        "lines to\n"
    )
