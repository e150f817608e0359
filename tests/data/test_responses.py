"""The target answers: what is written, what a rerun keeps, what is refused."""

import json

import pytest
import torch

from eagle_hf.data.answers.responses import write_responses
from eagle_hf.data.answers.sampling import generate_batch
from eagle_hf.data.reading.conversations import load_conversations

END = 257


def read_rows(folder):
    return [json.loads(line) for line in (folder / "conversations.jsonl").read_text().splitlines()]


def test_conversations_hold_turns_and_answers_in_turn(scripted, tokenizer, make_prompts, tmp_path):
    report = write_responses(
        scripted, tokenizer, make_prompts("a|b", "c", system="s"), tmp_path, max_new_tokens=9
    )
    rows = {row["id"]: row for row in read_rows(tmp_path)}
    assert [m["content"] for m in rows["p0"]["messages"]] == ["s", "a", "hello", "b", "hello"]
    assert [m["role"] for m in rows["p1"]["messages"]] == ["system", "user", "assistant"]
    assert rows["p1"]["source"] == "s"
    assert rows["p1"]["category"] == "c"
    assert report.finished == 2
    assert report.already_there == 0
    assert report.skipped == []
    assert report.sampled_tokens == 18
    assert report.cut == 0


def test_batched_answer_equals_the_answer_alone(target, tokenizer):
    target.double()
    prompts = [list(b"short"), list(b"a much longer prompt")]
    settings = {"eos_token_ids": {END}, "max_new_tokens": 8}
    together = generate_batch(target, prompts, **settings)
    assert together == [generate_batch(target, [prompt], **settings)[0] for prompt in prompts]
    by_hand = target.generate(
        input_ids=torch.tensor([prompts[0]]), max_new_tokens=8, do_sample=False
    )
    assert together[0] == by_hand[0, len(prompts[0]) :].tolist()


def test_sampled_answers_depend_on_the_seed_and_not_on_the_caller(target):
    settings = {"eos_token_ids": {END}, "max_new_tokens": 8, "temperature": 1.0}
    before = torch.random.get_rng_state()
    first = generate_batch(target, [[1, 2]], seed=1, **settings)
    assert torch.equal(before, torch.random.get_rng_state())
    torch.rand(3)
    assert first == generate_batch(target, [[1, 2]], seed=1, **settings)
    assert first != generate_batch(target, [[1, 2]], seed=2, **settings)


def test_target_keeps_its_training_mode(target):
    target.train()
    generate_batch(target, [[1]], eos_token_ids={END}, max_new_tokens=1)
    assert target.training


def test_rerun_answers_only_what_is_missing_and_drops_a_torn_line(
    scripted, tokenizer, make_prompts, tmp_path
):
    prompts = make_prompts("a", "b", "c")
    file = tmp_path / "conversations.jsonl"
    write_responses(scripted, tokenizer, prompts[:2], tmp_path, max_new_tokens=9)
    whole = file.read_text()
    file.write_text(whole + '{"id": "p2", "mess')
    report = write_responses(scripted, tokenizer, prompts, tmp_path, max_new_tokens=9)
    assert (report.finished, report.already_there) == (1, 2)
    assert file.read_text().startswith(whole)
    assert read_rows(tmp_path)[2]["id"] == "p2"
    assert write_responses(scripted, tokenizer, prompts, tmp_path, max_new_tokens=9).finished == 0


def test_every_batch_is_on_disk_before_the_next_starts(
    scripted, tokenizer, make_prompts, tmp_path, monkeypatch
):
    real_generate = type(scripted).generate

    def interrupted(self, **settings):
        if self.calls == 2:
            raise KeyboardInterrupt
        return real_generate(self, **settings)

    monkeypatch.setattr(type(scripted), "generate", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_responses(
            scripted,
            tokenizer,
            make_prompts("a", "b", "c"),
            tmp_path,
            max_new_tokens=9,
            batch_size=1,
        )
    assert len(read_rows(tmp_path)) == 2


def test_interrupted_and_whole_sampled_runs_write_the_same(
    scripted, tokenizer, make_prompts, tmp_path
):
    scripted.script = tuple(f"answer {n}" for n in range(99))
    prompts = make_prompts("aaaa", "aaa", "aa", "a")
    settings = {"temperature": 1.0, "batch_size": 2, "max_new_tokens": 12}
    write_responses(scripted, tokenizer, prompts, tmp_path / "whole", **settings)
    write_responses(scripted, tokenizer, prompts[:2], tmp_path / "parts", **settings)
    write_responses(scripted, tokenizer, prompts, tmp_path / "parts", **settings)
    assert read_rows(tmp_path / "whole") == read_rows(tmp_path / "parts")


@pytest.mark.parametrize("setting", [{"max_new_tokens": 8}, {"temperature": 0.5}, {"seed": 3}])
def test_other_setting_in_the_same_folder_is_refused_by_name(
    scripted, tokenizer, make_prompts, tmp_path, setting
):
    usual = {"max_new_tokens": 9}
    write_responses(scripted, tokenizer, make_prompts("a"), tmp_path, **usual)
    with pytest.raises(
        ValueError, match=f"{next(iter(setting))} is .* choose another folder or delete this one"
    ):
        write_responses(scripted, tokenizer, make_prompts("a", "b"), tmp_path, **(usual | setting))


def test_other_target_or_template_is_refused_by_name(scripted, tokenizer, make_prompts, tmp_path):
    write_responses(scripted, tokenizer, make_prompts("a"), tmp_path, max_new_tokens=9)
    tokenizer.chat_template = "x" + tokenizer.chat_template
    scripted.model.norm.weight.data += 1
    with pytest.raises(ValueError, match="target_weights is .*template_sha256 is ") as error:
        write_responses(scripted, tokenizer, make_prompts("a"), tmp_path, max_new_tokens=9)
    assert "max_new_tokens" not in str(error.value)


def test_manifest_says_what_made_the_folder(scripted, tokenizer, make_prompts, tmp_path):
    write_responses(scripted, tokenizer, make_prompts("a"), tmp_path, max_new_tokens=9, seed=4)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert manifest["step"] == "responses"
    assert manifest["max_new_tokens"] == 9
    assert manifest["temperature"] == 0.0
    assert manifest["seed"] == 4
    assert set(manifest["versions"]) == {"torch", "transformers", "eagle_hf"}
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "conversations.jsonl",
        "manifest.json",
        "turns.sqlite",
    ]


@pytest.mark.parametrize(
    ("file", "content", "text"),
    [
        ("manifest.json", "{", "is not JSON"),
        ("manifest.json", "[]", "holds a list"),
        (
            "conversations.jsonl",
            '{"no": "id"}\n{"id": "p0"}\n',
            "line 1 of .* is not a conversation",
        ),
    ],
)
def test_damaged_folder_is_refused(
    scripted, tokenizer, make_prompts, tmp_path, file, content, text
):
    write_responses(scripted, tokenizer, make_prompts("a"), tmp_path, max_new_tokens=9)
    (tmp_path / file).write_text(content)
    with pytest.raises(ValueError, match=text):
        write_responses(scripted, tokenizer, make_prompts("a"), tmp_path, max_new_tokens=9)


def test_conversations_without_a_manifest_are_refused(scripted, tokenizer, make_prompts, tmp_path):
    (tmp_path / "conversations.jsonl").write_text("")
    with pytest.raises(ValueError, match="holds data but no manifest.json"):
        write_responses(scripted, tokenizer, make_prompts("a"), tmp_path)


def test_prompt_too_long_is_skipped_at_any_turn(scripted, tokenizer, make_prompts, tmp_path):
    prompts = make_prompts("a" * 300, "a|" + "b" * 300, "c")
    report = write_responses(scripted, tokenizer, prompts, tmp_path, max_new_tokens=9)
    assert report.finished == 1
    assert [row.id for row in report.skipped] == ["p0", "p1"]
    assert "more than max_length 256" in report.skipped[0].reason
    assert [row["id"] for row in read_rows(tmp_path)] == ["p2"]


def test_empty_response_is_skipped(scripted, tokenizer, make_prompts, tmp_path):
    write_responses(scripted, tokenizer, make_prompts("a"), tmp_path, max_new_tokens=9)
    scripted.script = ("",)
    report = write_responses(
        scripted, tokenizer, make_prompts("a", "b"), tmp_path, max_new_tokens=9
    )
    assert report.skipped == [("p1", "the response to turn 1 has zero tokens of text")]


def test_run_without_any_response_is_refused(scripted, tokenizer, make_prompts, tmp_path):
    scripted.script = ("",)
    with pytest.raises(
        ValueError, match="none of 1 prompts got a response .p0: the response to turn 1 has zero"
    ):
        write_responses(scripted, tokenizer, make_prompts("a"), tmp_path, max_new_tokens=9)


def test_bad_arguments_are_refused(scripted, tokenizer, make_prompts, tmp_path):
    for prompts, text in (
        ([], "no prompts"),
        ([{"id": "a"}], "needs an 'id' and 'turns'"),
        (make_prompts("a") * 2, "two prompts have the id 'p0'"),
    ):
        with pytest.raises(ValueError, match=text):
            write_responses(scripted, tokenizer, prompts, tmp_path)
    with pytest.raises(ValueError, match="batch_size 0"):
        write_responses(scripted, tokenizer, make_prompts("a"), tmp_path, batch_size=0)
    tokenizer.chat_template = None
    with pytest.raises(ValueError, match="has no chat template"):
        write_responses(scripted, tokenizer, make_prompts("a"), tmp_path)


def test_adapted_target_answers_and_counts_as_another_target(
    target, tokenizer, make_prompts, tmp_path
):
    peft = pytest.importorskip("peft")
    adapted = peft.get_peft_model(target, peft.LoraConfig(target_modules=["q_proj"], r=2))
    prompts = make_prompts("a", "b|c")
    assert write_responses(adapted, tokenizer, prompts, tmp_path, max_new_tokens=6).cut == 3
    with pytest.raises(ValueError, match="target_weights"):
        write_responses(adapted.unload(), tokenizer, prompts, tmp_path, max_new_tokens=6)


@pytest.mark.parametrize("streaming", [False, True])
def test_several_folders_are_read_one_after_the_other(tmp_path, streaming):
    for name in "ab":
        (tmp_path / name).mkdir()
        with (tmp_path / name / "conversations.jsonl").open("w") as file:
            for number in range(2):
                roles = ("user", "assistant")
                messages = [{"role": role, "content": "q"} for role in roles]
                row = {"id": f"{name}{number}", "messages": messages}
                file.write(json.dumps(row) + "\n")
    rows = load_conversations(
        [tmp_path / "b", str(tmp_path / "a" / "conversations.jsonl")], streaming=streaming
    )
    assert [row["id"] for row in rows] == ["b0", "b1", "a0", "a1"]
    with pytest.raises(ValueError, match="no dataset was named"):
        load_conversations([])
