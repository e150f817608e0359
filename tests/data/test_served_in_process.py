"""The target answers in this process through the same interface, and its ids are kept."""

import asyncio
import shutil
import threading
import time

import pytest
import torch

from eagle_hf import load_target
from eagle_hf.data import load_conversations, load_prompts, prepare_examples
from eagle_hf.data.answers import (
    SERVED,
    TURNS,
    TargetAnswerer,
    TurnStore,
    collect_answers,
)
from eagle_hf.data.answers.sampling import generate_batch
from eagle_hf.data.templates.template import render_text

END = 257


def collect(answerer, prompts, folder):
    """(report, turns by prompt) of one run."""
    with TurnStore(folder) as store:
        report = asyncio.run(collect_answers(answerer, prompts, store))
        return report, {prompt["id"]: store.turns(prompt["id"]) for prompt in prompts}


def test_turns_follow_one_another_and_a_rerun_asks_nothing(
    scripted, tokenizer, make_prompts, tmp_path
):
    prompts = make_prompts("a|b", "c", system="s")
    answerer = TargetAnswerer(scripted, tokenizer, max_new_tokens=9)
    report, turns = collect(answerer, prompts, tmp_path)
    assert (report.finished, report.turns, report.sampled_tokens) == (2, 3, 18)
    assert [turn.text for turn in turns["p0"]] == ["hello", "hello"]
    shown = tokenizer.decode(turns["p0"][1].prompt_ids)
    assert shown.index("a") < shown.index("hello") < shown.rindex("b")
    assert scripted.calls == 2  # all first turns, then all second ones
    report, _ = collect(answerer, prompts, tmp_path)
    assert (report.already_there, scripted.calls) == (2, 2)


def test_the_ids_are_what_the_target_read_and_sampled(target, tokenizer, make_prompts, tmp_path):
    target.double()
    prompts = make_prompts("short", "a much longer prompt", "mid length")
    answerer = TargetAnswerer(target, tokenizer, max_new_tokens=8, batch_size=2)
    _, turns = collect(answerer, prompts, tmp_path)
    for prompt in prompts:
        [turn] = turns[prompt["id"]]
        messages = [{"role": "user", "content": prompt["turns"][0]}]
        text = render_text(tokenizer, messages, add_generation_prompt=True)
        assert turn.prompt_ids == tokenizer.encode(text, add_special_tokens=False)
        [alone] = generate_batch(target, [turn.prompt_ids], eos_token_ids={END}, max_new_tokens=8)
        assert turn.response_ids == alone
        assert (turn.prompt_ids_from, turn.response_ids_from) == (SERVED, SERVED)


@pytest.mark.parametrize(("ends", "learnt"), [(True, [*b"hello", END]), (False, [*b"hello"])])
def test_an_end_of_turn_token_is_learnt_only_where_it_was_sampled(
    ends, learnt, scripted, tokenizer, make_prompts, tmp_path
):
    scripted.ends = ends
    answerer = TargetAnswerer(scripted, tokenizer, max_new_tokens=6 if ends else 5)
    report, _ = collect(answerer, make_prompts("a"), tmp_path)
    [example], _ = prepare_examples(scripted, tokenizer, load_conversations(tmp_path))
    masked = zip(example["input_ids"], example["loss_mask"], strict=True)
    assert [token for token, is_learnt in masked if is_learnt] == learnt
    assert report.cut == (not ends)


def test_a_prompt_that_does_not_fit_is_skipped_by_name(scripted, tokenizer, make_prompts, tmp_path):
    answerer = TargetAnswerer(scripted, tokenizer, max_new_tokens=9, max_length=60)
    report, _ = collect(answerer, make_prompts("a", "b" * 60), tmp_path)
    assert (report.finished, report.failed) == (1, [])
    [row] = report.skipped
    assert row.id == "p1"
    assert "more than max_length 60" in row.reason


def test_a_finished_turn_is_on_the_disk_itself_while_the_next_ones_are_answered(
    scripted, tokenizer, make_prompts, tmp_path, monkeypatch
):
    copy = tmp_path / "copy"
    copy.mkdir()
    real_generate = type(scripted).generate

    def slow_in_the_end(self, **settings):
        if self.calls == 1:
            time.sleep(1.0)
            # Without its log, the file holds what a power cut leaves.
            shutil.copy(tmp_path / TURNS, copy / TURNS)
        return real_generate(self, **settings)

    monkeypatch.setattr(type(scripted), "generate", slow_in_the_end)
    answerer = TargetAnswerer(scripted, tokenizer, max_new_tokens=9, batch_size=1)
    collect(answerer, make_prompts("a", "b"), tmp_path)
    with TurnStore(copy) as store:
        assert len(list(store.prompts())) == 1


def test_a_run_that_is_interrupted_ends_at_the_next_token(
    scripted, tokenizer, make_prompts, tmp_path, monkeypatch
):
    begun = threading.Event()

    def endless(self, input_ids, stopping_criteria, **settings):
        begun.set()
        until = time.monotonic() + 20
        while not stopping_criteria(input_ids, None).all():
            assert time.monotonic() < until
            time.sleep(0.01)
        return torch.cat([input_ids, input_ids[:, :1]], dim=1)

    async def interrupted(answerer, store):
        run = asyncio.create_task(collect_answers(answerer, make_prompts("a"), store))
        await asyncio.to_thread(begun.wait)
        run.cancel()
        with pytest.raises(asyncio.CancelledError):
            await run

    monkeypatch.setattr(type(scripted), "generate", endless)
    started = time.monotonic()
    with TurnStore(tmp_path) as store:
        asyncio.run(interrupted(TargetAnswerer(scripted, tokenizer, max_new_tokens=9), store))
        assert store.turns("p0") == []
    assert time.monotonic() - started < 10


@pytest.mark.parametrize("finished", [1, 2, 3, 4, 5])
def test_a_run_that_goes_on_samples_what_a_whole_run_samples(
    finished, scripted, tokenizer, make_prompts, tmp_path
):
    scripted.script = tuple(f"answer {n}" for n in range(99))
    prompts = make_prompts("aaaa|b", "aaa|b", "aa", "a|b|c", "c", "dd|e")

    def answerer():
        return TargetAnswerer(scripted, tokenizer, max_new_tokens=12, batch_size=2, temperature=1.0)

    _, whole = collect(answerer(), prompts, tmp_path / "whole")
    real_generate = type(scripted).generate
    scripted.calls = 0

    def interrupted(self, **settings):
        if self.calls == finished:
            raise KeyboardInterrupt
        return real_generate(self, **settings)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(scripted), "generate", interrupted)
        with pytest.raises(KeyboardInterrupt):
            collect(answerer(), prompts, tmp_path / "parts")
    _, parts = collect(answerer(), prompts, tmp_path / "parts")
    assert parts == whole


def test_tools_of_a_prompt_reach_the_template_and_calls_are_kept(
    scripted, tokenizer, make_prompts, tmp_path
):
    tokenizer.chat_template = (
        "{% if tools %}{{ tools[0].function.name }}{% endif %}" + tokenizer.chat_template
    )
    tokenizer.response_template = {
        "start_anchor": "assistant\n",
        "fields": {
            "tool_calls": {
                "open_pattern": r"call (?P<name>\w+)",
                "close_pattern": r"<\|im_end\|>",
                "repeats": True,
                "content": "json",
                "transform": {
                    "type": "function",
                    "function": {"name": "{name}", "arguments": "{content}"},
                },
            },
        },
    }
    scripted.script = ('call weather{"city": "Oslo"}',)
    tool = {"type": "function", "function": {"name": "weather", "parameters": {}}}
    [prompt] = make_prompts("a", tools=[tool])
    _, turns = collect(TargetAnswerer(scripted, tokenizer, max_new_tokens=40), [prompt], tmp_path)
    [turn] = turns["p0"]
    assert tokenizer.decode(turn.prompt_ids).startswith("weather<|im_start|>")
    function = {"name": "weather", "arguments": {"city": "Oslo"}}
    assert turn.tool_calls == [{"type": "function", "function": function}]
    assert turn.finish_reason == "tool_calls"
    [example], _ = prepare_examples(scripted, tokenizer, load_conversations(tmp_path))
    assert example["input_ids"] == turn.prompt_ids + turn.response_ids


def test_another_target_is_refused_in_the_same_store(
    target, scripted, tokenizer, make_prompts, tmp_path
):
    with torch.no_grad():
        target.lm_head.weight.add_(1)
    collect(TargetAnswerer(scripted, tokenizer, max_new_tokens=9), make_prompts("a"), tmp_path)
    with pytest.raises(ValueError, match="holds answers of the target"):
        collect(TargetAnswerer(target, tokenizer, max_new_tokens=9), make_prompts("b"), tmp_path)


@pytest.mark.parametrize("setting", [{"max_new_tokens": 0}, {"batch_size": 0}, {"temperature": -1}])
def test_settings_out_of_range_are_refused(setting, scripted, tokenizer):
    with pytest.raises(ValueError, match="must be at least"):
        TargetAnswerer(scripted, tokenizer, **setting)


@pytest.mark.slow
def test_batches_by_length_are_three_times_as_fast_as_one_at_a_time(tmp_path):
    target, tokenizer = load_target("smollm2", work="batch")
    prompts, _ = load_prompts("train_math_reasoning_gym", limit=64)

    def speed(batch_size, count):
        answerer = TargetAnswerer(target, tokenizer, max_new_tokens=32, batch_size=batch_size)
        started = time.process_time()
        report, _ = collect(answerer, prompts[:count], tmp_path / str(batch_size))
        return report.sampled_tokens / (time.process_time() - started)

    assert speed(32, 64) > 3 * speed(1, 3)
