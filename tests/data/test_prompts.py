"""Reading prompts of every common shape, and sampling them from the target."""

import json

import pytest
import torch

from eagle_hf.data.prompts.bundled_sets import bundled_prompts
from eagle_hf.data.prompts.gathering import prompts_from_dataset, read_prompts, write_prompts
from eagle_hf.data.prompts.magpie import magpie_prompts
from eagle_hf.data.prompts.topics import TOPIC_SEEDS
from eagle_hf.data.templates.arguments import TemplateArguments

TEXTS = tuple(f"please explain number {n}" for n in range(50))


def write(tmp_path, *rows):
    """A file of these lines; what is not bytes yet is written as JSON."""
    path = tmp_path / "mine.jsonl"
    with path.open("wb") as file:
        for row in rows:
            line = row if isinstance(row, bytes) else json.dumps(row).encode()
            file.write(line + b"\n")
    return path


def chat(*pairs, names=("role", "content")):
    """Messages from (role, content) pairs, under the names that a format has for both."""
    return [dict(zip(names, pair, strict=True)) for pair in pairs]


@pytest.mark.parametrize(
    ("row", "turns", "system"),
    [
        ({"turns": ["a", "b"]}, ["a", "b"], None),
        ({"turns": ["a"], "system": "s"}, ["a"], "s"),
        (
            {"messages": chat(("system", "s"), ("user", "a"), ("assistant", "x"), ("user", "b"))},
            ["a", "b"],
            "s",
        ),
        (
            {"conversations": chat(("human", "a"), ("gpt", "x"), names=("from", "value"))},
            ["a"],
            None,
        ),
        ({"prompt": "a", "completion": "x"}, ["a"], None),
        ({"prompt": chat(("user", "a")), "completion": chat(("assistant", "x"))}, ["a"], None),
        ({"instruction": "a", "input": "b"}, ["a\n\nb"], None),
        ({"instruction": "a", "input": ""}, ["a"], None),
        ({"messages": None, "prompt": "a"}, ["a"], None),
        ({"instruction": "a", "context": "b"}, ["a\n\nb"], None),
        ({"conversation": chat(("user", "a"), ("assistant", "x"))}, ["a"], None),
        ({"messages": [{"role": "user", "content": None, "value": "a"}]}, ["a"], None),
        ({"text": "a"}, ["a"], None),
        ({"text": "b", "prompt": "a"}, ["a"], None),
        (
            {
                "messages": chat(
                    ("system", [{"type": "text", "text": "s"}]),
                    ("user", [{"type": "text", "text": "a "}, {"type": "text", "text": "b"}]),
                )
            },
            ["a b"],
            "s",
        ),
    ],
)
def test_user_turns_are_found_in_every_column(tmp_path, row, turns, system):
    prompts, skipped = read_prompts(write(tmp_path, row))
    assert skipped == []
    assert prompts[0]["turns"] == turns
    assert prompts[0].get("system") == system
    assert prompts[0]["id"] == "mine-1"
    assert prompts[0]["source"] == "mine"


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"{broken", "not JSON"),
        (b"", "empty line"),
        (b"\xff\xfe", "not UTF-8"),
        (b"[" * 100_000, "not readable as JSON"),
        ([1, 2], "the row is of type list"),
        ({"text": "<|im_start|>user\nhi"}, "holds '<|im_start|>': a chat that a template has"),
        ({"text": "### Human: hi ### Assistant: ho"}, "holds '### Human:'"),
        ({"text": " "}, "'text' is empty"),
        ({"question": "a"}, "the columns ['question']"),
        ({"turns": "a"}, "'turns' is of type str"),
        ({"turns": [1]}, "turn 0 of 'turns' is of type int"),
        ({"turns": []}, "'turns' has no user turn"),
        ({"prompt": " "}, "turn 0 of 'prompt' is empty"),
        (b'{"prompt": "\\ud800"}', "half a surrogate pair"),
        ({"prompt": 3}, "of type int"),
        ({"instruction": "a", "input": 3}, "'input' is of type int"),
        ({"messages": {"role": "user"}}, "the messages are of type dict"),
        ({"messages": ["hi"]}, "a message is of type str"),
        ({"messages": chat(("tool", "x"))}, "a message of role 'tool'"),
        ({"messages": chat(("assistant", "x"))}, "message 0 of role 'assistant' comes first"),
        ({"messages": chat(("user", "a"), ("user", "b"))}, "1 of role 'user' follows 'user'"),
        ({"messages": chat(("user", "a"), ("system", "s"))}, "1 of role 'system' follows 'user'"),
        ({"messages": chat(("wizard", "x"))}, "message 0 is of role 'wizard'"),
        ({"messages": chat(("user", ""), ("assistant", "x"))}, "turn 0 of 'messages' is empty"),
        ({"messages": chat(("system", "s"))}, "'messages' has no user turn"),
        ({"turns": ["a"], "id": [1]}, "'id' is of type list"),
        ({"turns": ["a"], "category": 3}, "'category' is of type int"),
        ({"turns": ["b"], "id": "good"}, "the id 'good' was used before"),
        ({"messages": chat(("user", [{"type": "image"}]))}, "of type 'image'; prompts are text"),
        ({"prompt": "a", "tools": 3}, "tools is of type int; give a list of JSON schemas"),
        ({"prompt": "a", "tools": "[{"}, "tools is no JSON"),
        ({"prompt": "a", "chat_template_kwargs": ["x"]}, "chat_template_kwargs is of type list"),
        ({"prompt": "a", "chat_template_kwargs": {"tokenize": 1}}, "tokenize, which is no"),
        (b'{"prompt": "a", "tools": [{"name": "\\ud800"}]}', "half a surrogate pair"),
    ],
)
def test_bad_line_is_skipped_with_its_reason(tmp_path, line, reason):
    prompts, skipped = read_prompts(write(tmp_path, {"id": "good", "turns": ["a"]}, line))
    assert [prompt["id"] for prompt in prompts] == ["good"]
    assert [row.line for row in skipped] == [2]
    assert reason in skipped[0].reason


@pytest.mark.parametrize("as_text", [False, True])
def test_tools_and_template_variables_stay_with_the_prompt(tmp_path, as_text):
    tools = [{"type": "function", "function": {"name": "now"}}]
    variables = {"enable_thinking": False}
    row = {"prompt": "a", "tools": tools, "chat_template_kwargs": variables, "other": 1}
    if as_text:
        row |= {"tools": json.dumps(tools), "chat_template_kwargs": json.dumps(variables)}
    empty = {"prompt": "b", "tools": None, "chat_template_kwargs": {}}
    (prompt, without), _ = read_prompts(write(tmp_path, row, empty))
    arguments = TemplateArguments().for_row(prompt)
    assert arguments.tools == tools
    assert arguments.variables == variables
    assert "other" not in prompt
    assert set(without) == {"id", "turns", "category", "source"}
    write_prompts(tmp_path / "again.jsonl", [prompt])
    assert read_prompts(tmp_path / "again.jsonl")[0] == [prompt]


def test_file_without_a_usable_line_is_refused_with_count_and_reasons(tmp_path):
    with pytest.raises(
        ValueError,
        match="none of 2 lines of mine.jsonl holds a prompt .1: not JSON.*2: .*columns .'answer'",
    ):
        read_prompts(write(tmp_path, b"{", {"answer": "a"}))
    (tmp_path / "empty.jsonl").write_text("")
    with pytest.raises(ValueError, match="none of 0 lines of empty.jsonl .*there were none"):
        read_prompts(tmp_path / "empty.jsonl")


def test_dataset_rows_read_as_file_rows():
    rows = [{"messages": chat(("user", "a"), ("assistant", "x"))}, {"messages": []}]
    dataset = pytest.importorskip("datasets").Dataset.from_list(rows)
    for source in (rows, dataset, dataset.to_iterable_dataset()):
        prompts, skipped = prompts_from_dataset(source, source="mine")
        assert prompts == [{"id": "mine-0", "turns": ["a"], "category": "other", "source": "mine"}]
        assert skipped[0].line == 1
        assert "no user turn" in skipped[0].reason


def test_mapping_of_splits_is_refused():
    with pytest.raises(ValueError, match=r"mapping of splits \['test', 'train'\]"):
        prompts_from_dataset({"train": [], "test": []})


def test_bundled_prompts_read_without_a_skip():
    prompts, skipped = read_prompts(bundled_prompts("eval_chat_mt_bench"))
    assert len(prompts) == 80
    assert all(len(prompt["turns"]) == 2 for prompt in prompts)
    assert skipped == []
    more_prompts, _ = read_prompts(bundled_prompts("train_math_reasoning_gym"))
    assert len(more_prompts) == 1430


@pytest.mark.parametrize("name", ["train", "../prompts", ""])
def test_unknown_bundled_name_lists_the_names(name):
    with pytest.raises(
        ValueError, match="take one of .*eval_chat_mt_bench, .*train_math_reasoning_gym"
    ):
        bundled_prompts(name)


def test_magpie_repeats_itself_under_one_seed_only(scripted, tokenizer):
    scripted.script = TEXTS
    first = magpie_prompts(scripted, tokenizer, 6, seed=1, batch_size=4)
    again = magpie_prompts(scripted, tokenizer, 6, seed=1, batch_size=4)
    other = magpie_prompts(scripted, tokenizer, 6, seed=2, batch_size=4)
    assert first == again
    assert [prompt["turns"] for prompt in first] != [prompt["turns"] for prompt in other]
    assert len({prompt["turns"][0] for prompt in first}) == 6
    assert first[0]["id"] == "magpie/1/0"


def test_magpie_leaves_the_callers_random_state_alone(scripted, tokenizer):
    scripted.script = TEXTS
    before = torch.random.get_rng_state()
    magpie_prompts(scripted, tokenizer, 1, batch_size=2)
    assert torch.equal(before, torch.random.get_rng_state())


def test_magpie_starts_where_the_template_starts_a_user_turn(scripted, tokenizer, monkeypatch):
    scripted.script = TEXTS
    real_generate = type(scripted).generate
    batches = []

    def noted(self, input_ids, **settings):
        batches.append(input_ids.tolist())
        return real_generate(self, input_ids, **settings)

    monkeypatch.setattr(type(scripted), "generate", noted)
    prompts = magpie_prompts(scripted, tokenizer, 2, batch_size=2, topics=["tea", "chess"])
    first_prefix = tokenizer.decode(batches[0][0])
    assert "about tea.<|im_end|>\n<|im_start|>user\n" in first_prefix
    assert first_prefix.endswith("user\n")
    assert [prompt["category"] for prompt in prompts] == ["tea", "chess"]


@pytest.mark.parametrize(
    ("script", "ends", "reason"),
    [
        (["hi"], True, "too short: "),
        (["ça va où déjà été œuf"], True, "not mostly ASCII: "),
        (["one two three\a"], True, "unprintable: "),
        (["the same text"], True, "duplicate: "),
        (["never ending " * 20], False, "no end of turn: "),
    ],
)
def test_magpie_gives_up_with_counts_and_reasons(scripted, tokenizer, script, ends, reason):
    scripted.script, scripted.ends = script, ends
    with pytest.raises(ValueError, match=f"[01] of 2 user turns were accepted .*{reason}"):
        magpie_prompts(scripted, tokenizer, 2, batch_size=8)


def test_magpie_refuses_settings_that_cannot_work(scripted, tokenizer):
    with pytest.raises(ValueError, match="count is 0"):
        magpie_prompts(scripted, tokenizer, 0)
    with pytest.raises(ValueError, match="temperature is 0"):
        magpie_prompts(scripted, tokenizer, 1, temperature=0)
    with pytest.raises(ValueError, match="pass a list"):
        magpie_prompts(scripted, tokenizer, 1, topics="tea")
    tokenizer.chat_template = "{{ messages[0].content }}{{ messages[0].content }}"
    with pytest.raises(ValueError, match="shows a user message 2 times"):
        magpie_prompts(scripted, tokenizer, 1)


def test_magpie_samples_from_a_real_target(target, tokenizer):
    with pytest.raises(ValueError, match="0 of 1 user turns were accepted"):
        magpie_prompts(target, tokenizer, 1, batch_size=8, max_new_tokens=4)


def test_magpie_gives_every_category_its_topics_in_turn(scripted, tokenizer):
    scripted.script = TEXTS
    topics = {"chat": ("tea", "chess"), "code": ("SQL",)}
    prompts = magpie_prompts(scripted, tokenizer, 4, batch_size=4, topics=topics)
    assert [prompt["category"] for prompt in prompts] == ["chat", "code", "chat", "code"]
    assert len({len(seeds) for seeds in TOPIC_SEEDS.values()}) == 1
    with pytest.raises(ValueError, match="the topics of 'code' are 'SQL'; pass a list"):
        magpie_prompts(scripted, tokenizer, 1, topics={"code": "SQL"})


def test_magpie_renders_with_the_variables_of_the_template(scripted, tokenizer, monkeypatch):
    scripted.script = TEXTS
    tokenizer.chat_template = "{{ '/no_think ' if no_think else '' }}" + tokenizer.chat_template
    real_generate = type(scripted).generate
    batches = []

    def noted(self, input_ids, **settings):
        batches.append(input_ids.tolist())
        return real_generate(self, input_ids, **settings)

    monkeypatch.setattr(type(scripted), "generate", noted)
    arguments = TemplateArguments({"no_think": True})
    magpie_prompts(scripted, tokenizer, 1, batch_size=1, template_arguments=arguments)
    assert tokenizer.decode(batches[0][0]) == "/no_think <|im_start|>user\n"
    with pytest.raises(ValueError, match="the chat template reads no nothink"):
        magpie_prompts(
            scripted, tokenizer, 1, template_arguments=TemplateArguments({"nothink": True})
        )
