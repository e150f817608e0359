"""Cost tables: exact at measured points, straight in between, for what they were measured of."""

from typing import Any

import pytest

from eagle_hf import SelfSpeculation, WindowedDraft
from eagle_hf.decoding.assistants import as_assistant
from eagle_hf.measuring.costs import measure_costs
from eagle_hf.planning.cost import CostTable


def table(**changes: Any) -> CostTable:
    """Costs of batches 1 and 4, lengths 100 and 300, and 1, 2 and 4 tokens, in whole seconds."""
    fields: dict[str, Any] = dict(
        batches=(1, 4),
        lengths=(100, 300),
        tokens=(1, 2, 4),
        widths=(1, 3),
        overhead=(0.5, 1.0),
        facts={"dtype": "float32", "threads": 1},
        target=(((1, 2, 8), (3, 4, 10)), ((5, 6, 12), (7, 8, 14))),
        draft=(((1, 3), (1, 3)), ((2, 4), (2, 4))),
    )
    fields.update(changes)
    return CostTable(**fields)


def test_measured_points_are_exact():
    assert table().at(1, 100).target.tolist() == [1, 2, 5, 8]
    assert table().at(4, 300).target.tolist() == [7, 8, 11, 14]


def test_lines_run_between_measured_points():
    assert table().at(1, 200).target.tolist() == [2, 3, 6, 9]
    assert table().at(2, 100).target[0] == pytest.approx(1 + 4 / 3)


def test_beyond_the_table_the_nearest_point_holds():
    assert table().at(64, 9999).target.tolist() == [7, 8, 11, 14]
    assert table().at(1, 5).overhead == 0.5


def test_a_round_costs_its_forwards_and_the_overhead():
    cell = table().at(1, 100)
    assert cell.round_seconds(nodes=3, widths=[1, 2]) == 8 + 1 + 2 + 0.5
    assert cell.round_seconds(0, []) == 1
    assert cell.draft_seconds(6) == 6
    with pytest.raises(ValueError, match="4 nodes needs the cost of 5 tokens; 4 were measured"):
        cell.round_seconds(4, [1])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(batches=(4, 1)), "batches of a cost table"),
        (dict(tokens=(2, 3, 4)), "the costs of one token"),
        (dict(target=(((1, 2, -8), (3, 4, 10)), ((5, 6, 12), (7, 8, 14)))), "positive seconds"),
        (dict(draft=((1, 3),)), "draft of the cost table"),
    ],
)
def test_impossible_tables_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        table(**changes)


def test_a_saved_table_opens_as_it_was(tmp_path):
    table().save(tmp_path / "costs.json")
    again = CostTable.load(tmp_path / "costs.json")
    assert again.at(2, 222).target.tolist() == table().at(2, 222).target.tolist()
    assert again.facts == table().facts


def test_a_file_that_holds_something_else_is_refused(tmp_path):
    (tmp_path / "costs.json").write_text("[1]")
    with pytest.raises(ValueError, match="is no cost table"):
        CostTable.load(tmp_path / "costs.json")


def test_a_saved_table_is_refused_for_another_dtype_than_it_was_measured_in(tmp_path):
    table().save(tmp_path / "costs.json")
    again = CostTable.load(tmp_path / "costs.json")
    again.check({"dtype": "float32", "threads": 1})
    with pytest.raises(ValueError, match="dtype 'float32', this is 'bfloat16'; measure here"):
        again.check({"dtype": "bfloat16", "threads": 1})


def test_every_kind_of_drafter_is_measured(target, head):
    grids: dict[str, Any] = dict(batches=(1, 3), lengths=(16, 40), tokens=(1, 4), widths=(1, 2))
    for assistant in (head, WindowedDraft(target, sinks=2, window=9), SelfSpeculation(2, 9)):
        measured = measure_costs(target, assistant, **grids, repeats=2)
        assert measured.at(2, 30).round_seconds(3, [1, 2]) > 0
        assert len(measured.overhead) == 2
        measured.check(as_assistant(assistant).fingerprint(target))
    # the last one was measured of self-speculation
    with pytest.raises(ValueError, match="drafter_fingerprint"):
        measured.check(as_assistant(head).fingerprint(target))


def test_lengths_beyond_the_targets_context_are_not_measured(target, head):
    with pytest.raises(ValueError, match="64 tokens read on top, but the target's context is 512"):
        measure_costs(target, head, lengths=(500,))
