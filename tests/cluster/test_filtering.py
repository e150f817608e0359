"""Rows that are filtered by several workers come out as those of one."""

import pytest

from eagle_hf.cluster.filtering import (
    FilteredUnit,
    FilterStage,
    FilterUnit,
    OpenFilter,
    in_order,
)
from eagle_hf.data import PrivacyReport, PrivacySettings, filter_prompts

SETTINGS = PrivacySettings()


def prompts(*texts):
    """Prompts of one turn."""
    return [{"id": f"p{number}", "turns": [text]} for number, text in enumerate(texts)]


def unit(number):
    """An empty unit that has been filtered."""
    return FilteredUnit(number, [], PrivacyReport(SETTINGS))


@pytest.mark.parametrize("arrived", [[0, 1, 2, 3], [3, 2, 1, 0], [1, 0, 3, 2]])
def test_units_come_out_in_their_order(arrived):
    ordered = list(in_order(unit(number) for number in arrived))
    assert [one.number for one in ordered] == [0, 1, 2, 3]


def test_units_come_out_as_soon_as_all_before_them_are_there():
    ordered = in_order(iter([unit(0), unit(2), unit(1)]))
    assert [next(ordered).number, next(ordered).number, next(ordered).number] == [0, 1, 2]


def test_units_have_the_rows_and_the_findings_of_the_whole():
    pytest.importorskip("phonenumbers")
    rows = prompts("write to jane@example.com", "hello", "call +1 202-555-0143", "jane@example.org")
    kept, expected = filter_prompts(rows, SETTINGS)
    stage = FilterStage(OpenFilter(SETTINGS, of_conversations=False))
    units = [stage(FilterUnit(0, rows[:2])), stage(FilterUnit(1, rows[2:]))]
    report = PrivacyReport(SETTINGS)
    found = []
    for one in units:
        report.add(one.report)
        found += one.rows
    assert found == kept
    assert report.as_json() == expected.as_json()
