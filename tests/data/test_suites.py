"""Suites: bundled ones, long texts, and those of others as their own scripts leave them."""

import json

import pytest
from tiny import word_tokenizer

from eagle_hf.data import load_suite
from eagle_hf.data.prompts.long_texts import long_length
from eagle_hf.data.prompts.suites import check_suites, first_turn_ids


def write_lines(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_speed_bench(folder, turns, categories=("coding", "math")):
    """A folder as SPEED-Bench's prepare_data.py writes it."""
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    columns = {
        "question_id": [f"q{number}" for number in range(2 * len(categories))],
        "category": [category for category in categories for _ in range(2)],
        "sub_category": ["x"] * 2 * len(categories),
        "turns": [turns] * 2 * len(categories),
        "source": ["y"] * 2 * len(categories),
        "src_id": ["z"] * 2 * len(categories),
        "difficulty": [""] * 2 * len(categories),
        "multiturn": [False] * 2 * len(categories),
    }
    folder.mkdir(parents=True)
    parquet.write_table(pyarrow.table(columns), folder / "test.parquet")


def test_spec_benchs_question_file_by_category(tmp_path, capsys):
    rows = []
    for number in range(6):
        category = "translation" if number < 4 else "rag"
        rows.append({"question_id": number, "category": category, "turns": [f"question {number}"]})
    write_lines(tmp_path / "question.jsonl", rows)
    prompts = load_suite([str(tmp_path / "question.jsonl")], per_category=2)
    assert [(prompt["id"], prompt["category"]) for prompt in prompts] == [
        ("0", "translation"),
        ("2", "translation"),
        ("4", "rag"),
        ("5", "rag"),
    ]
    assert "Spec-Bench (Apache-2.0)" in capsys.readouterr().err


def test_speed_bench_as_its_script_writes_it(tmp_path, capsys):
    write_speed_bench(tmp_path / "speed" / "qualitative", ["first", "second"])
    prompts = load_suite([str(tmp_path / "speed" / "qualitative")])
    assert [prompt["id"] for prompt in prompts] == ["q0", "q1", "q2", "q3"]
    assert {prompt["category"] for prompt in prompts} == {"coding", "math"}
    assert prompts[0]["turns"] == ["first", "second"]
    assert "NVIDIA Evaluation Dataset License" in capsys.readouterr().err
    write_speed_bench(tmp_path / "speed" / "throughput_2k", ["long"], ("low_entropy",))
    both = load_suite([str(tmp_path / "speed")], per_category=1)
    assert [(prompt["id"], prompt["category"]) for prompt in both] == [
        ("qualitative/q0", "qualitative/coding"),
        ("qualitative/q2", "qualitative/math"),
        ("throughput_2k/q0", "throughput_2k/low_entropy"),
    ]


def test_speed_bench_without_its_texts_is_refused(tmp_path):
    placeholder = "FULL BENCHMARK DATA SHOULD BE FETCHED FROM THE SOURCE USING SPECDEC_BENCH"
    write_speed_bench(tmp_path / "qualitative", [placeholder])
    with pytest.raises(ValueError, match=r"prepare_data\.py"):
        load_suite([str(tmp_path / "qualitative")])


def test_speculator_benchmarks_by_file(tmp_path, capsys):
    human_eval = {"task_id": "HumanEval/0", "prompt": "def f():", "test": "assert f()"}
    write_lines(tmp_path / "HumanEval.jsonl", [human_eval])
    write_lines(tmp_path / "math_reasoning.jsonl", [{"prompt": "1 + 1?"}, {"prompt": "2 + 2?"}])
    row = {"question_id": 81, "category": "writing", "turns": ["Write.", "Again."]}
    write_lines(tmp_path / "question.jsonl", [row, {"reference": "none"}])
    prompts = load_suite([str(tmp_path)])
    assert [(prompt["id"], prompt["category"]) for prompt in prompts] == [
        ("HumanEval/HumanEval/0", "HumanEval"),
        ("math_reasoning/math_reasoning-1", "math_reasoning"),
        ("math_reasoning/math_reasoning-2", "math_reasoning"),
        ("question/81", "question"),
    ]
    said = capsys.readouterr().err
    assert "speculator_benchmarks (Apache-2.0; HumanEval: MIT)" in said
    assert "1 lines skipped" in said


def test_ids_are_distinct_over_all_suites(tmp_path):
    for name in ("a.jsonl", "b.jsonl"):
        write_lines(tmp_path / name, [{"id": "same", "prompt": "hello"}])
    files = [str(tmp_path / name) for name in ("a.jsonl", "b.jsonl")]
    assert [prompt["id"] for prompt in load_suite(files)] == ["same", f"{files[1]}/same"]


@pytest.mark.parametrize("length", [512, 2048])
def test_long_prompts_have_the_length_that_was_asked_for(length):
    tokenizer = word_tokenizer()
    prompts = load_suite([f"long:{length}"], per_category=4, tokenizer=tokenizer)
    assert len({prompt["id"] for prompt in prompts}) == 4
    for prompt in prompts:
        assert first_turn_ids(tokenizer, prompt)["input_ids"].shape[1] == length
        assert prompt["category"] == f"long-{length}"
    assert {prompt["source"] for prompt in prompts} == {"standard library", "bundled texts"}
    assert "the code above" in prompts[0]["turns"][0]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["long:2k", "long:32k"])
def test_long_prompts_of_a_real_tokenizer(name):
    from eagle_hf import load_target

    _, tokenizer = load_target("smollm2")
    for prompt in load_suite([name], per_category=2, tokenizer=tokenizer):
        length = first_turn_ids(tokenizer, prompt)["input_ids"].shape[1]
        assert long_length(name) - 8 <= length <= long_length(name)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("poems", "no category or file is called 'poems'"),
        ("long:many", "give the tokens of its prompts"),
        ("long:16", "128 at least"),
    ],
)
def test_a_suite_that_is_none_is_refused(name, message):
    with pytest.raises(ValueError, match=message):
        check_suites([name])


def test_suites_without_rows_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"holds no \.jsonl"):
        load_suite([str(tmp_path)])
    write_lines(tmp_path / "empty.jsonl", [])
    with pytest.raises(ValueError, match="none of 0 lines"):
        load_suite([str(tmp_path / "empty.jsonl")])
    with pytest.raises(ValueError, match="is given 2 times"):
        load_suite(["chat", "chat"])
    with pytest.raises(ValueError, match="give load_suite the target's tokenizer"):
        load_suite(["long:2k"])
