"""The values of a JSON list, wherever the parts of the file end."""

import json
import tracemalloc

import pytest

from eagle_hf.data.reading import json_lists
from eagle_hf.data.reading.json_lists import read_json_list

VALUES = [
    {"a": 'ä, 😀 and " ] }', "b": [1, 2.5, -3e-7, None, True, False]},
    *([], {}, "", "]", 0, -12, 1234567890123, 0.25, None, True, [[[]]]),
    "line\nbreak \\ \u2028",
]


@pytest.mark.parametrize("chunk", [1, 2, 3, 5, 64, 10**6])
@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("ascii_alone", [True, False])
def test_values_are_those_of_the_whole_list(tmp_path, monkeypatch, chunk, indent, ascii_alone):
    monkeypatch.setattr(json_lists, "CHUNK", chunk)
    path = tmp_path / "mine.json"
    text = json.dumps(VALUES, indent=indent, ensure_ascii=ascii_alone)
    path.write_text("\ufeff \n" + text + "\n", encoding="utf-8")
    rows = list(read_json_list(path))
    assert [row.number for row in rows] == list(range(len(VALUES)))
    assert [row.value for row in rows] == VALUES


@pytest.mark.parametrize("chunk", [1, 7, 10**6])
def test_every_cut_costs_the_rest_and_is_said(tmp_path, monkeypatch, chunk):
    monkeypatch.setattr(json_lists, "CHUNK", chunk)
    path = tmp_path / "mine.json"
    text = json.dumps([{"a": 1}, {"b": "ä"}], ensure_ascii=False).encode()
    for end in range(1, len(text)):
        path.write_bytes(text[:end])
        *whole, last = [row.value for row in read_json_list(path)]
        assert whole == [{"a": 1}, {"b": "ä"}][: len(whole)]
        assert isinstance(last, ValueError)
        assert "the rows from here on are lost" in str(last)


def test_an_empty_list_has_no_values(tmp_path):
    path = tmp_path / "mine.json"
    path.write_text(" [ ] ")
    assert list(read_json_list(path)) == []


def test_a_long_list_is_never_in_memory_whole(tmp_path):
    path = tmp_path / "mine.json"
    path.write_text(json.dumps([{"text": "a" * 4000}] * 5000))
    tracemalloc.start()
    count = sum(1 for _ in read_json_list(path))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert count == 5000
    assert peak < 8 * 2**20
