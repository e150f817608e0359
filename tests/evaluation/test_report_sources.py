"""What a report reads: files found, told apart, refused, and never lost in silence."""

import json

import pytest
import report_data

from eagle_hf.evaluation.charts import read_sources
from eagle_hf.evaluation.charts.measured import parse_tree


def test_a_folder_is_read_to_any_depth(tmp_path):
    report_data.write_all(tmp_path)
    kinds = sorted(source.kind for source in read_sources([tmp_path]).files)
    expected = ["methods", "methods", "pairs", "plan", "serving", "simulation", "speeds"]
    assert kinds == [*expected, "training"]


def test_a_files_name_does_not_matter_where_it_is_given(tmp_path):
    file = report_data.write(tmp_path, "another.json", report_data.serving())
    (source,) = read_sources([file]).files
    assert source.kind == "serving"
    assert len(source.data) == 20


def test_a_file_that_is_given_twice_is_read_once(tmp_path):
    file = report_data.write(tmp_path, "serving.json", report_data.serving())
    assert len(read_sources([tmp_path, file]).files) == 1


def test_the_shipped_heads_metrics_are_read():
    card = report_data.ROOT / "model_cards" / "smollm2-135m-instruct-eagle3"
    (source,) = read_sources([card]).files
    assert source.kind == "head"
    greedy = next(row for row in source.data if row.method == "head dynamic:4:4:12")
    assert (greedy.category, greedy.setting) == ("chat", "greedy, batch 1, bfloat16")
    kept = json.loads((card / "metrics.json").read_text())["settings"][0]
    assert greedy.tau == kept["results"]["chat"]["tau"]


def test_of_a_training_run_the_newest_checkpoint_counts(tmp_path):
    for step in (1000, 3000, 2000):
        content = report_data.training() | {"global_step": step}
        report_data.write(tmp_path / "run" / f"checkpoint-{step}", "trainer_state.json", content)
    report_data.write(tmp_path / "other", "trainer_state.json", report_data.training())
    found = [source.path.parent.name for source in read_sources([tmp_path]).files]
    assert found == ["other", "checkpoint-3000"]


def test_files_of_one_name_are_told_apart_by_their_folders(tmp_path):
    for name in ("a/results", "b/results"):
        report_data.write(tmp_path / name, "serving.json", report_data.serving())
    labels = [source.label for source in read_sources([tmp_path]).files]
    assert labels == ["a/results", "b/results"]


def test_a_step_that_was_logged_twice_counts_once(tmp_path):
    history = [{"step": 5, "eval_tau": 1.5}, {"step": 5, "eval_tau": 1.7}]
    file = report_data.write(tmp_path, "trainer_state.json", {"log_history": history})
    (evaluation,) = read_sources([file]).files[0].data
    assert evaluation.tau == 1.7


def test_evaluation_sets_have_lines_of_their_own(tmp_path):
    history = [{"step": 5, "eval_chat_tau": 1.5, "eval_code_tau": 1.7, "eval_code_alpha_1": 0.5}]
    file = report_data.write(tmp_path, "trainer_state.json", {"log_history": history})
    found = read_sources([file]).files[0].data
    assert [(one.part, one.tau, one.alpha) for one in found] == [
        ("chat", 1.5, ()),
        ("code", 1.7, (0.5,)),
    ]


def test_the_root_of_a_tree_may_be_written_or_not():
    root = {"parent": -1, "depth": 0, "visited": 9, "accepted": 9}
    child = {"parent": -1, "depth": 1, "visited": 9, "accepted": 4}
    grandchild = {"parent": 0, "depth": 2, "visited": 4, "accepted": 2}
    without = parse_tree([child, grandchild])
    assert parse_tree([root, child | {"parent": 0}, grandchild | {"parent": 1}]) == without
    assert [node.parent for node in without] == [-1, 0]


def test_an_unknown_file_of_a_folder_is_named_as_left_out(tmp_path):
    report_data.write(tmp_path, "serving.json", report_data.serving())
    unknown = report_data.write(tmp_path / "recipe", "metrics.json", {"loss": 1})
    sources = read_sources([tmp_path])
    assert len(sources.files) == 1
    assert list(sources.left_out) == [unknown]


def without(content: dict, *path: str) -> dict:
    """The content without one entry."""
    copy = json.loads(json.dumps(content))
    inner = copy
    for part in path[:-1]:
        inner = inner[int(part)] if isinstance(inner, list) else inner[part]
    del inner[path[-1]]
    return copy


@pytest.mark.parametrize(
    "content, reason",
    [
        ({"loss": 1}, "nothing that a report knows"),
        ([1], "holds a list"),
        (without(report_data.serving(), "runs", "0", "arrival"), "'arrival' is missing"),
        (report_data.serving() | {"schema": 9}, "its schema is 9"),
        (without(report_data.methods(), "rows", "0", "tokens_s"), "'tokens_s' is missing"),
        (report_data.serving() | {"runs": 3}, "of kind 'serving'"),
    ],
)
def test_a_file_that_is_unknown_or_incomplete_is_refused(tmp_path, content, reason):
    file = report_data.write(tmp_path, "metrics.json", content)
    with pytest.raises(ValueError, match=reason) as refused:
        read_sources([file])
    assert str(file) in str(refused.value)


def test_no_json_a_missing_path_and_an_empty_folder_are_refused(tmp_path):
    broken = tmp_path / "serving.json"
    broken.write_text('{"runs": [')
    with pytest.raises(ValueError, match="is no JSON"):
        read_sources([broken])
    with pytest.raises(ValueError, match="does not exist"):
        read_sources([tmp_path / "nowhere"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="holds none of metrics.json"):
        read_sources([tmp_path / "empty"])
