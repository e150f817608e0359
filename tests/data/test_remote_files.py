"""Prompts and conversations behind URLs are read like those of local files."""

import json

import fsspec
import pytest

from eagle_hf.data import load_conversations, load_prompts
from eagle_hf.data.reading.remote_files import is_url


@pytest.fixture
def bucket():
    """A file system that is no local one, emptied afterwards."""
    fs = fsspec.filesystem("memory")
    yield fs
    fs.store.clear()


def test_prompts_of_an_object_store(bucket):
    rows = [{"id": f"p{number}", "prompt": f"say {number}"} for number in range(3)]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    bucket.pipe_file("/bucket/mine.jsonl", text.encode())
    prompts, skipped = load_prompts("memory://bucket/mine.jsonl")
    assert [prompt["turns"] for prompt in prompts] == [["say 0"], ["say 1"], ["say 2"]]
    assert not skipped


def test_conversations_of_an_object_store(bucket):
    messages = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]
    row = {"id": "a", "messages": messages}
    bucket.pipe_file("/bucket/said.jsonl", json.dumps(row).encode() + b"\n")
    (found,) = load_conversations("memory://bucket/said.jsonl")
    assert found["messages"][1]["content"] == "hello"


def test_a_missing_object_is_refused_by_name(bucket):
    with pytest.raises(ValueError, match="memory://bucket/none.jsonl does not exist"):
        load_prompts("memory://bucket/none.jsonl")


def test_an_unknown_kind_of_url_is_refused_by_name():
    with pytest.raises(ValueError, match="gopher://host/x.jsonl cannot be opened"):
        load_prompts("gopher://host/x.jsonl")


@pytest.mark.parametrize("name", ["mine.jsonl", "owner/name", "/tmp/x.jsonl"])
def test_paths_and_names_of_the_hub_are_no_urls(name):
    assert not is_url(name)
