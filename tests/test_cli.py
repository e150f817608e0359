"""The command line: thin, and errors are one line."""

import json

import pytest
import torch
from peft import LoraConfig, get_peft_model
from tiny import tiny_head, tiny_target, word_tokenizer

from eagle_hf import (
    Eagle3DraftHead,
    Plan,
    SelfSpeculation,
    TreeConfig,
    WindowedDraft,
    cli,
    merge_adapter,
)
from eagle_hf.data import suites
from eagle_hf.evaluation.offline import sampling_at
from eagle_hf.measuring.plans import record_answers
from eagle_hf.measuring.traces import Trace


def test_evaluate_prints_a_table_and_writes_the_report(tmp_path, capsys):
    target = tiny_target()
    target.float().save_pretrained(tmp_path / "target")
    word_tokenizer().save_pretrained(tmp_path / "target")
    tiny_head(target).save_pretrained(tmp_path / "head")
    (tmp_path / "asked.jsonl").write_text(
        json.dumps({"turns": ["w5 w6"], "category": "mine"}) + "\n"
    )
    status = cli.main(
        [
            "evaluate",
            "--target",
            str(tmp_path / "target"),
            "--head",
            str(tmp_path / "head"),
            "--categories",
            str(tmp_path / "asked.jsonl"),
            "--dtype",
            "float32",
            "--max-new-tokens",
            "20",
            "--tree",
            "chain:3:1:3",
            "--out",
            str(tmp_path / "out"),
        ]
    )
    assert status == 0 and "| mine | 1 |" in capsys.readouterr().out
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert metrics["results"]["all"]["identical"] == 1.0 and "chain" in metrics["facts"]["tree"]


@pytest.mark.parametrize("drafter", ["head", "draft", "itself"])
def test_plan_measures_a_drafter_and_generate_uses_the_plan(tmp_path, capsys, drafter):
    target, small = (
        tiny_target(dtype=torch.float32),
        tiny_target(dtype=torch.float32, layers=2, seed=3),
    )
    for name, part in (("target", target), ("draft", small), ("head", tiny_head(target))):
        part.save_pretrained(tmp_path / name)
        word_tokenizer().save_pretrained(tmp_path / name)
    (tmp_path / "asked.jsonl").write_text(
        json.dumps({"turns": ["w5 w6"], "category": "mine"}) + "\n"
    )
    out = tmp_path / ("head" if drafter == "head" else "out")
    out.mkdir(exist_ok=True)
    whose = {
        "head": ["--head", str(tmp_path / "head")],
        "draft": ["--draft", str(tmp_path / "draft"), "--window", "0", "--out", str(out)],
        "itself": [
            "--self-speculation",
            "--sinks",
            "2",
            "--window",
            "9",
            "--out",
            str(out),
            "--per-category",
            "2",
        ],
    }
    status = cli.main(
        [
            "plan",
            "--target",
            str(tmp_path / "target"),
            *whose[drafter],
            "--categories",
            "chat" if drafter == "itself" else str(tmp_path / "asked.jsonl"),
            "--dtype",
            "float32",
            "--max-new-tokens",
            "20",
            "--batches",
            "1",
            "2",
            "--lengths",
            "16",
            "40",
            "--repeats",
            "1",
            "--trace",
            str(tmp_path / "trace.npz"),
        ]
    )
    printed = capsys.readouterr().out
    assert (
        status == 0
        and all(f"| {batch} | {length} | " in printed for batch in (1, 2) for length in (16, 40))
        and printed.count("| adaptive |") == 4
    )
    assert (out / "plan.png").is_file() and Trace.load(tmp_path / "trace.npz").tokens.shape[2] == (
        24 if drafter == "head" else 31
    )
    assistant = {
        "head": lambda: Eagle3DraftHead.from_pretrained(out),
        "draft": lambda: WindowedDraft(small, window=None),
        "itself": lambda: SelfSpeculation(2, 9),
    }[drafter]()
    assistant.plan, assistant.tree = (
        Plan.load(out),
        TreeConfig("adaptive", depth=6, top_k=8, nodes=63),
    )
    ids = torch.tensor([[3, 5, 6, 2, 4]])
    plain, fast = (
        target.generate(
            ids,
            assistant_model=one,
            max_new_tokens=30,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
        )
        for one in (None, assistant)
    )
    assert torch.equal(plain, fast) and len(assistant.plan.shares[0]) > 8


def test_plan_without_a_folder_or_with_too_few_tokens_says_so(tmp_path, capsys):
    assert cli.main(["plan", "--target", "smollm2", "--self-speculation"]) == 2
    assert "give --out an existing one" in capsys.readouterr().err
    tiny_target(dtype=torch.float32).save_pretrained(tmp_path)
    word_tokenizer().save_pretrained(tmp_path)
    assert (
        cli.main(
            [
                "plan",
                "--target",
                str(tmp_path),
                "--self-speculation",
                "--out",
                str(tmp_path),
                "--max-new-tokens",
                "8",
            ]
        )
        == 2
    )
    assert "max_new_tokens is 8, which two rounds may emit" in capsys.readouterr().err


def test_acceptance_is_measured_on_answers_of_a_temperature(target):
    starts, assistant, tokenizer = (
        [torch.tensor([[3, 5, 6]])] * 2,
        SelfSpeculation(2, 9),
        word_tokenizer(),
    )
    greedy, sampled, again = (
        record_answers(target, tokenizer, assistant, starts, 12, **sampling_at(heat))
        for heat in (0.0, 1.0, 1.0)
    )
    first, second = (greedy.text[greedy.answers == number] for number in (0, 1))
    assert (
        (first == second).all()
        and (sampled.text == again.text).all()
        and len(set(sampled.text)) > 1
    )
    assert sampled.text.shape != greedy.text.shape or (sampled.text != greedy.text).any()


@pytest.mark.parametrize("rows, common", [(29, 29), (40, 31), (31, 31)])
def test_draft_models_that_pad_the_vocabulary_differently_are_planned_for(
    target, tmp_path, capsys, rows, common
):
    tiny_target(vocab_size=rows, layers=2).save_pretrained(tmp_path)
    word_tokenizer().save_pretrained(tmp_path)
    options = cli.parser().parse_args(
        ["plan", "--target", "unused", "--draft", str(tmp_path), "--window", "0"]
    )
    assistant = cli.drafter_of(options, target, word_tokenizer(), torch.float32, "cpu")
    assert assistant.vocab_size == common and "note:" not in capsys.readouterr().err
    other = word_tokenizer()
    other.add_tokens(["another"])
    assert (
        cli.drafter_of(options, target, other, torch.float32, "cpu").vocab_size is None
        and "differ in 1 entries" in capsys.readouterr().err
    )


def test_errors_are_one_line_and_status_2(capsys):
    assert cli.main(["evaluate", "--target", "/nowhere.gguf", "--head", "x"]) == 2
    assert capsys.readouterr().err == (
        "eagle-hf evaluate: /nowhere.gguf does not exist; give the path of a .gguf file, a folder or a hub id\n"
    )


def test_trees_are_parsed():
    assert TreeConfig.parse("dynamic:4:3:9") == TreeConfig(depth=4, top_k=3, nodes=9)
    assert str(TreeConfig.parse("chain:4:1:4")) == "chain:4:1:4"
    with pytest.raises(ValueError, match="policy:depth:top_k:nodes"):
        TreeConfig.parse("dynamic:4")


def test_every_bundled_category_has_prompts():
    assert {name: len(suites.load_suite((name,))) for name in suites.SUITES} == {
        "chat": 80,
        "code": 164,
        "math": 100,
        "multilingual": 80,
    }


def test_merge_writes_a_plain_head_and_overwrites_none(target, tmp_path, capsys):
    head = tiny_head(target).to(torch.bfloat16)
    head.save_pretrained(tmp_path / "head")
    get_peft_model(
        tiny_head(target), LoraConfig(target_modules=["fc", "o_proj"], init_lora_weights=False)
    ).save_pretrained(tmp_path / "adapter")
    command = [
        "merge",
        "--head",
        str(tmp_path / "head"),
        "--adapter",
        str(tmp_path / "adapter"),
        "--out",
        str(tmp_path / "out"),
    ]
    assert cli.main(command) == 0 and "out" in capsys.readouterr().out
    out, expected = (
        Eagle3DraftHead.from_pretrained(tmp_path / "out"),
        merge_adapter(head, tmp_path / "adapter"),
    )
    assert (
        out.dtype == torch.bfloat16
        and out.tree == head.tree
        and not torch.equal(out.fc.weight, head.fc.weight)
    )
    assert all(
        torch.equal(ours, theirs)
        for ours, theirs in zip(out.state_dict().values(), expected.state_dict().values())
    )
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "config.json",
        "model.safetensors",
    ]
    capsys.readouterr()
    assert cli.main(command) == 2
    assert capsys.readouterr().err == (
        f"eagle-hf merge: {tmp_path / 'out'} already holds config.json and model.safetensors; choose another folder, nothing is overwritten\n"
    )
    assert cli.main([*command[:4], str(tmp_path / "head"), "--out", str(tmp_path / "new")]) == 2
    assert "is no adapter" in capsys.readouterr().err and not (tmp_path / "new").exists()
