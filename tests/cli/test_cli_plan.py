"""`eagle-hf plan`: a drafter is measured, and generate uses the plan."""

import json

import pytest
import torch
from tiny import tiny_head, tiny_target, word_tokenizer

from eagle_hf import Eagle3DraftHead, Plan, SelfSpeculation, TreeConfig, WindowedDraft, cli
from eagle_hf.evaluation import open_draft_model, sampling_at
from eagle_hf.evaluation.charts import read_sources
from eagle_hf.measuring.plans import record_answers
from eagle_hf.measuring.traces import Trace

TREE = TreeConfig("adaptive", depth=6, top_k=8, nodes=63)
COMMON = (
    "--dtype float32 --max-new-tokens 20 --batches 1 2 --lengths 16 40 --repeats 1 "
    "--trace trace.npz"
)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A target, a smaller model, a head and prompts, in the folder that the command runs in."""
    target = tiny_target(dtype=torch.float32)
    models = {
        "target": target,
        "draft": tiny_target(dtype=torch.float32, layers=2, seed=3),
        "head": tiny_head(target),
    }
    for name, model in models.items():
        model.save_pretrained(tmp_path / name)
        word_tokenizer().save_pretrained(tmp_path / name)
    row = {"turns": ["w5 w6"], "category": "mine"}
    (tmp_path / "asked.jsonl").write_text(json.dumps(row) + "\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def make_plan(capsys, flags):
    """What the command prints about a plan that it makes."""
    assert cli.main(["plan", "--target", "target", *flags.split(), *COMMON.split()]) == 0
    return capsys.readouterr().out


def check_screen(screen):
    """Every cell has its costs, and the adaptive policy is measured in it."""
    for cell in ("| 1 | 16 | ", "| 1 | 40 | ", "| 2 | 16 | ", "| 2 | 40 | "):
        assert cell in screen
    assert screen.count("| adaptive |") == 4


def check_output(target, assistant, folder):
    """With the plan the drafter decodes what the target writes alone."""
    assistant.plan = Plan.load(folder)
    assistant.tree = TREE
    ids = torch.tensor([[3, 5, 6, 2, 4]])
    settings = dict(max_new_tokens=30, do_sample=False, eos_token_id=None, pad_token_id=0)
    plain = target.generate(ids, **settings)
    fast = target.generate(ids, assistant_model=assistant, **settings)
    assert torch.equal(plain, fast)
    assert len(assistant.plan.shares[0]) > 8


def test_plan_of_a_head_lies_beside_it(folder, capsys):
    screen = make_plan(capsys, "--head head --categories asked.jsonl")
    check_screen(screen)
    assert "use it: assistant.tree" in screen
    assert (folder / "head" / "plan.png").is_file()
    found = {source.kind: source for source in read_sources([folder / "head"]).files}
    assert len(found["speeds"].data) == screen.count("| adaptive |") * 2
    assert found["plan"].data.costs == Plan.load(folder / "head").costs
    assert Trace.load(folder / "trace.npz").tokens.shape[2] == 24
    target = tiny_target(dtype=torch.float32)
    check_output(target, Eagle3DraftHead.from_pretrained(folder / "head"), folder / "head")


def test_plan_of_a_smaller_model(folder, capsys):
    flags = "--draft draft --window 0 --out out --categories asked.jsonl"
    screen = make_plan(capsys, flags)
    check_screen(screen)
    assert "eagle_hf.Plan.load('out')" in screen
    assert (folder / "out" / "plan.png").is_file()
    assert Trace.load(folder / "trace.npz").tokens.shape[2] == 31
    small = tiny_target(dtype=torch.float32, layers=2, seed=3)
    target = tiny_target(dtype=torch.float32)
    check_output(target, WindowedDraft(small, window=None), folder / "out")


def test_plan_of_the_target_behind_a_window(folder, capsys):
    flags = "--self-speculation --sinks 2 --window 9 --out out --per-category 2 --categories chat"
    check_screen(make_plan(capsys, flags))
    assert (folder / "out" / "plan.png").is_file()
    assert Trace.load(folder / "trace.npz").tokens.shape[2] == 31
    check_output(tiny_target(dtype=torch.float32), SelfSpeculation(2, 9), folder / "out")


def test_plan_without_a_folder_says_so(capsys):
    assert cli.main(["plan", "--target", "smollm2", "--self-speculation"]) == 2
    assert "give one with --out" in capsys.readouterr().err


def test_plan_with_too_few_tokens_says_so(tmp_path, capsys):
    command = ["plan", "--target", "unused", "--self-speculation", "--out", str(tmp_path)]
    assert cli.main([*command, "--max-new-tokens", "8"]) == 2
    assert "max_new_tokens is 8, which two rounds may emit" in capsys.readouterr().err


def test_plan_with_negative_repeats_says_so(tmp_path, capsys):
    command = ["plan", "--target", "unused", "--self-speculation", "--out", str(tmp_path)]
    assert cli.main([*command, "--repeats", "-1"]) == 2
    assert "repeats is -1" in capsys.readouterr().err


def test_plan_wants_exactly_one_drafter(capsys):
    for flags in ([], ["--head", "head", "--self-speculation"]):
        with pytest.raises(SystemExit):
            cli.main(["plan", "--target", "target", *flags])
    assert "--self-speculation" in capsys.readouterr().err


def test_acceptance_is_measured_on_answers_of_a_temperature(target):
    starts = [torch.tensor([[3, 5, 6]])] * 2
    assistant = SelfSpeculation(2, 9)
    tokenizer = word_tokenizer()
    traces = []
    for temperature in (0.0, 1.0, 1.0):
        sampling = sampling_at(temperature)
        traces.append(record_answers(target, tokenizer, assistant, starts, 12, **sampling))
    greedy, sampled, again = traces
    assert (greedy.text[greedy.answers == 0] == greedy.text[greedy.answers == 1]).all()
    assert (sampled.text == again.text).all()
    assert len(set(sampled.text)) > 1
    assert sampled.text.shape != greedy.text.shape or (sampled.text != greedy.text).any()


@pytest.mark.parametrize("draft_size, common", [(29, 29), (40, 31), (31, 31)])
def test_draft_models_that_pad_the_vocabulary_differently_are_planned_for(
    target, tmp_path, capsys, draft_size, common
):
    tiny_target(vocab_size=draft_size, layers=2).save_pretrained(tmp_path)
    word_tokenizer().save_pretrained(tmp_path)
    assistant = open_draft_model(tmp_path, target, word_tokenizer(), window=None)
    assert assistant.vocab_size == common
    assert "note:" not in capsys.readouterr().err


def test_a_draft_model_with_another_tokenizer_is_noted(target, tmp_path, capsys):
    tiny_target(layers=2).save_pretrained(tmp_path)
    word_tokenizer().save_pretrained(tmp_path)
    other = word_tokenizer()
    other.add_tokens(["another"])
    assistant = open_draft_model(tmp_path, target, other, window=None)
    assert assistant.vocab_size is None
    assert "differ in 1 entries" in capsys.readouterr().err
