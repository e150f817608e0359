"""The step `prompts`: filtered, mixed, and sampled part by part."""

import pytest
from tiny import word_tokenizer

from eagle_hf.pipeline import RunTarget, prompts, read_config
from eagle_hf.pipeline.prompts import make_prompts
from eagle_hf.pipeline.rows import read_rows, write_rows
from eagle_hf.pipeline.settings import PromptSettings

BUNDLED = ["train_code_codeio", "train_math_reasoning_gym"]


def made(tmp_path, **settings):
    flags = {f"prompts.{name}": value for name, value in settings.items()}
    config = read_config(None, {"target": "t", "output_dir": str(tmp_path), **flags})
    target = RunTarget(config, opened=(object(), word_tokenizer()))
    metrics = make_prompts(config, target, tmp_path)
    rows = list(read_rows(tmp_path / "prompts.jsonl"))
    assert metrics["prompts"] == len(rows)
    return rows


def test_prompts_are_filtered_and_mixed(tmp_path):
    rows = made(
        tmp_path,
        sources=BUNDLED,
        max_characters=1000,
        mixture={"code": 0.25, "math": 0.75},
        num_prompts=200,
    )
    categories = [row["category"] for row in rows]
    assert (categories.count("code"), categories.count("math")) == (50, 150)
    assert max(len(row["turns"][0]) for row in rows) <= 1000


def test_shares_are_estimated_from_a_log(tmp_path, capsys):
    log = tmp_path / "log.jsonl"
    log.write_text('{"prompt": "What is 3 * 4?"}\n{"prompt": "Write a Python function."}\n')
    rows = made(tmp_path, sources=BUNDLED, mixture_log=str(log), num_prompts=100)
    categories = [row["category"] for row in rows]
    assert (categories.count("code"), categories.count("math")) == (50, 50)
    assert "2 requests, 0 lines skipped" in capsys.readouterr().out


def test_the_shortest_share_of_each_source(tmp_path):
    whole = made(tmp_path, sources=BUNDLED, keep_contaminated=True)
    half = made(tmp_path, sources=BUNDLED, keep_contaminated=True, shortest_share=0.5)
    assert abs(len(half) - len(whole) / 2) <= 2
    lengths = sorted(len(row["turns"][0]) for row in whole if row["category"] == "math")
    kept = [len(row["turns"][0]) for row in half if row["category"] == "math"]
    assert max(kept) <= lengths[len(lengths) // 2]


def test_an_id_that_two_sources_use_is_told_apart_or_refused(tmp_path):
    sources = []
    for name in ("a", "b"):
        path = tmp_path / f"{name}.jsonl"
        rows = [{"id": "q", "turns": ["w5"]}, {"id": name, "turns": ["w6 w7 w8"]}]
        write_rows(path, rows)
        sources.append(str(path))
    rows = made(tmp_path, sources=sources)
    assert [row["id"] for row in rows] == ["q", "a", "b/q", "b"]
    with pytest.raises(ValueError, match="two prompts have the id 'q'"):
        made(tmp_path, sources=sources, shortest_share=0.5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "nothing is asked"),
        ({"sources": ["a"], "mixture": {"code": 1.0}, "mixture_log": "b"}, "give one of them"),
        ({"sources": ["a"], "num_prompts": 3}, "num_prompts needs mixture"),
        ({"sources": ["a"], "shortest_share": 0.0}, "a share above 0"),
    ],
)
def test_settings_that_contradict_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        PromptSettings(**settings)


def test_turns_that_the_target_writes_are_kept_part_by_part(tmp_path, monkeypatch):
    calls = []

    def write(target, tokenizer, count, *, seed, **kwargs):
        if len(calls) == 2:
            raise KeyboardInterrupt
        calls.append((count, seed))
        texts = [f"w5 w6 w{7 + number}" for number in range(count)]
        return [
            {"id": f"magpie/{seed}/{number}", "turns": [text], "category": "chat", "source": "m"}
            for number, text in enumerate(texts)
        ]

    monkeypatch.setattr(prompts, "magpie_prompts", write)
    monkeypatch.setattr(prompts, "PART", 4)
    with pytest.raises(KeyboardInterrupt):
        made(tmp_path, magpie=10)
    assert not (tmp_path / "prompts.jsonl").exists()
    done = calls.copy()
    calls.clear()
    rows = made(tmp_path, magpie=10)
    assert [count for count, _ in done + calls] == [4, 4, 2]
    assert len({seed for _, seed in done + calls}) == 3
    # the parts repeat each other here, and a repeated text is asked once
    assert len(rows) == 4
