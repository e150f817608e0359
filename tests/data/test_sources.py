"""One door for files, bundled sets, presets and data sets of the Hub."""

import json
import types

import pytest

from eagle_hf.data import optional
from eagle_hf.data.answers.responses import write_responses
from eagle_hf.data.prompts import presets
from eagle_hf.data.prompts.gathering import gather_prompts, load_prompts, stream_prompts
from eagle_hf.data.prompts.presets import PRESETS, describe_preset
from eagle_hf.data.reading import conversations, sources
from eagle_hf.data.reading.conversations import read_conversations

ROWS = [
    {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "x"}]},
    {"messages": [{"role": "assistant", "content": "x"}]},
    {"messages": [{"role": "user", "content": "b"}, {"role": "assistant", "content": "y"}]},
]


@pytest.fixture
def hub(monkeypatch):
    """A stand-in for `datasets`: remembers what was asked for, and serves ROWS."""
    asked = []

    def load_dataset(*names, **settings):
        asked.append((names, settings))
        print("opened")
        return iter(ROWS)

    def require(module, package, purpose):
        return types.SimpleNamespace(load_dataset=load_dataset)

    monkeypatch.setattr(sources, "require", require)
    return asked


def turns(prompts):
    """The first turn of each prompt."""
    return [prompt["turns"][0] for prompt in prompts]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("mine.jsonl", '{"prompt": "a"}\n{"prompt": "b"}\n'),
        ("mine.ndjson", '{"prompt": "a"}\n{"prompt": "b"}\n'),
        ("mine.json", '\ufeff [{"prompt": "a"},\n {"prompt": "b"}]'),
        ("lines.json", '{"prompt": "a"}\n{"prompt": "b"}\n'),
        ("mine.txt", "a\n\nb\n"),
        ("mine.csv", "prompt,category\na,chat\nb,code\n"),
    ],
)
def test_files_of_every_format_give_the_same_prompts(tmp_path, name, content):
    pytest.importorskip("datasets")
    (tmp_path / name).write_text(content, encoding="utf-8")
    prompts, skipped = load_prompts(tmp_path / name)
    assert turns(prompts) == ["a", "b"]
    assert skipped == []


def test_parquet_files_give_the_prompts_of_their_nested_columns(tmp_path):
    datasets = pytest.importorskip("datasets")
    path = tmp_path / "mine.parquet"
    datasets.Dataset.from_list(ROWS).to_parquet(path)
    prompts, skipped = load_prompts(path)
    assert turns(prompts) == ["a", "b"]
    assert [row.line for row in skipped] == [1]


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("mine.yaml", "ends in '.yaml'; files that can be read end in .jsonl"),
        ("missing.jsonl", "missing.jsonl does not exist"),
        ("folder", "conversations.jsonl does not exist"),
    ],
)
def test_a_file_that_cannot_be_read_is_refused_by_name(tmp_path, name, reason):
    (tmp_path / "mine.yaml").write_text("a: b")
    (tmp_path / "folder").mkdir()
    with pytest.raises(ValueError, match=reason):
        load_prompts(tmp_path / name)


def test_a_name_that_stands_for_nothing_lists_what_there_is():
    with pytest.raises(ValueError, match=r"'ultrachats' is no file.*train_code_codeio.*dolly"):
        load_prompts("ultrachats")


def test_the_hub_is_asked_for_the_dataset_its_config_and_its_split(hub):
    prompts, skipped = load_prompts("you/chats", config="all", split="test", limit=2)
    names, settings = hub[0]
    assert names == ("you/chats", "all")
    assert settings["split"] == "test"
    assert settings["streaming"]
    assert turns(prompts) == ["a", "b"]
    assert prompts[0]["id"] == "you/chats-0"
    assert [row.line for row in skipped] == [1]


def test_a_limit_ends_the_reading_of_the_hub(hub):
    prompts, skipped = load_prompts("you/chats", limit=1)
    assert turns(prompts) == ["a"]
    assert skipped == []
    assert turns(gather_prompts(["you/chats"], per_file=1)) == ["a"]


def test_files_of_one_name_give_prompts_of_different_ids(tmp_path):
    rows = '{"prompt": "a"}\n{"prompt": "b", "id": "7"}\n'
    names = ["a/train.jsonl", "b/train.jsonl", "b/train.ndjson", "c/other.jsonl"]
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(rows)
    prompts = gather_prompts([str(tmp_path / name) for name in names])
    assert [prompt["id"] for prompt in prompts] == [
        "a/train.jsonl-1",
        "7",
        "b/train.jsonl-1",
        "b/train.jsonl/7",
        "train.ndjson-1",
        "train.ndjson/7",
        "other-1",
        "other/7",
    ]


def test_a_source_given_twice_is_refused(tmp_path):
    path = str(tmp_path / "mine.jsonl")
    with pytest.raises(ValueError, match=r"mine.jsonl is given 2 times; give it once"):
        gather_prompts([path, path])


def test_streamed_prompts_are_read_one_by_one(monkeypatch):
    read = []

    def load_dataset(*names, **settings):
        for row in ROWS:
            read.append(row)
            yield row

    def require(module, package, purpose):
        return types.SimpleNamespace(load_dataset=load_dataset)

    monkeypatch.setattr(sources, "require", require)
    skipped = []
    prompts = stream_prompts("you/chats", skipped)
    assert read == []
    assert next(prompts)["turns"] == ["a"]
    assert len(read) == 1
    assert next(prompts)["turns"] == ["b"]
    assert [row.line for row in skipped] == [1]


def test_a_preset_is_opened_by_name_and_shows_its_licence_first(hub, capsys):
    load_prompts("ultrachat", limit=1)
    names, settings = hub[0]
    assert names[0] == "HuggingFaceH4/ultrachat_200k"
    assert settings["split"] == "train_sft"
    shown = capsys.readouterr().out
    assert "licence MIT; answers by ChatGPT: not for training" in shown.split("opened")[0]


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_says_its_licence_and_whether_its_answers_may_be_used(name):
    preset = PRESETS[name]
    text = describe_preset(name)
    assert preset.licence in text
    assert preset.reason in text
    assert ("not for training" in text) != preset.answers_allowed
    assert sources.HUB_NAME.fullmatch(preset.dataset)


def test_an_unknown_preset_lists_the_names():
    with pytest.raises(ValueError, match="no preset is called 'x'; take one of ultrachat"):
        presets.describe_preset("x")


def test_answers_that_may_not_be_used_are_refused_before_the_hub_is_asked(hub):
    with pytest.raises(ValueError, match=r"not for training .* let the target answer them"):
        read_conversations("ultrachat")
    assert hub == []
    found, _ = read_conversations("openthoughts")
    assert [row["messages"][-1]["content"] for row in found] == ["x", "y"]


def test_a_missing_library_is_named_before_anything_is_read(monkeypatch):
    def missing(name):
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    monkeypatch.setattr(optional, "import_module", missing)
    with pytest.raises(ValueError, match=r"needs datasets, .* pip install 'eagle_hf\[data\]'"):
        load_prompts("you/chats")


def test_the_same_reader_reads_finished_conversations(tmp_path):
    path = tmp_path / conversations.CONVERSATIONS
    path.write_text("\n".join(json.dumps(row) for row in ROWS) + "\n{")
    found, skipped = read_conversations(tmp_path)
    assert [row["id"] for row in found] == ["conversations-1", "conversations-3"]
    assert [row.line for row in skipped] == [2, 4]
    assert "comes first" in skipped[0].reason
    prompts, _ = load_prompts(tmp_path)
    assert turns(prompts) == ["a", "b"]


def test_a_conversation_of_several_turns_is_replayed_by_the_target(tmp_path, scripted, tokenizer):
    names = ("human", "gpt", "human", "gpt")
    turns = [{"from": name, "value": text} for name, text in zip(names, "axby", strict=True)]
    (tmp_path / "mine.json").write_text(json.dumps([{"conversations": turns}]))
    prompts, _ = load_prompts(tmp_path / "mine.json")
    write_responses(scripted, tokenizer, prompts, tmp_path / "out", max_new_tokens=16)
    found, _ = read_conversations(tmp_path / "out")
    contents = [message["content"] for message in found[0]["messages"]]
    assert contents == ["a", "hello", "b", "hello"]
