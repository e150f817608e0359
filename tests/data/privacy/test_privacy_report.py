"""The audit report: counts that add up, and no value."""

import json
import logging

import pytest
from privacy_corpus import read_planted

from eagle_hf.data import (
    PrivacyFilter,
    PrivacyReport,
    PrivacySettings,
    filter_conversations,
    filter_prompts,
)
from eagle_hf.data.privacy.report import ROWS_NAMED, SAMPLES, mask

MAIL = "jane.roe@northwind-traders.co.uk"
PHONE = "+49 151 23871946"

pytestmark = pytest.mark.usefixtures("libraries")


def prompt(*turns: str) -> dict:
    return {"id": "p1", "turns": list(turns), "category": "chat", "source": "mine"}


def planted_values() -> list[str]:
    """Every value of the corpus that is longer than what masks and counts look like."""
    values = []
    for text, planted in read_planted("planted.txt"):
        values += [text[one.start : one.end] for one in planted]
    return values


def rows_with_values_everywhere() -> list[dict]:
    """Every value as a question, an answer, a role, a name of a field and an id."""
    rows = []
    for value in planted_values():
        said = {"role": "assistant", "content": value}
        rows.append({"id": value, "messages": [{"role": "user", "content": value}, said]})
        rows.append({"id": "1", "messages": [{"role": value, "content": value}]})
        rows.append({"id": "1", "messages": [{"role": "user", value: {value: [value]}}]})
        rows.append({"id": "1", "messages": value})
    return rows


def test_no_value_is_written_printed_or_logged(tmp_path, capfd, caplog):
    caplog.set_level(logging.DEBUG)
    path = tmp_path / "privacy" / "report.json"
    for settings in (PrivacySettings(), PrivacySettings(action="drop")):
        _, report = filter_conversations(rows_with_values_everywhere(), settings)
        report.write(path)
        captured = capfd.readouterr()
        written = path.read_text() + path.with_suffix(".txt").read_text() + str(report)
        written += captured.out + captured.err + caplog.text
        assert report.rows == 4 * len(planted_values())
        assert [value for value in planted_values() if value in written] == []


def test_no_value_stands_in_the_error_about_rows_that_cannot_be_read():
    rows = [{"id": value, "turns": value, "text": value} for value in planted_values()]
    with pytest.raises(ValueError, match="none of .* rows is a prompt") as refused:
        filter_prompts(rows)
    assert [value for value in planted_values() if value in str(refused.value)] == []


def test_the_report_adds_up_and_names_settings_and_versions(tmp_path):
    rows = [prompt("Hello"), prompt(f"Ask {MAIL}"), prompt(f"Call {PHONE}")] * 4
    settings = PrivacySettings(actions={"phone": "drop"})
    _, report = filter_prompts(rows, settings)
    written = report.as_json()
    assert written["rows"] == 12
    assert (written["unchanged"], written["redacted"]) == (4, 4)
    assert written["dropped"] == {"phone in the prompt": 4}
    assert written["dropped_rows"] == [2, 5, 8, 11]
    assert written["kinds"]["email"] == {
        "what": "e-mail address",
        "action": "redact",
        "found": {"prompt": 4},
        "samples": [mask(MAIL)] * SAMPLES,
    }
    assert written["settings"]["actions"] == {"phone": "drop"}
    assert set(written["versions"]) >= {"phonenumbers", "python-stdnum", "detect-secrets"}
    assert str(report).startswith("12 rows: 4 unchanged, 4 redacted, 4 dropped")


def test_a_sample_shows_the_form_and_no_character():
    assert mask("+49 151-23") == "+## ###-##"
    assert mask("Jörg.x@firma.de") == "****.*@*****.**"
    assert mask("上海路1号\n") == "***#* "
    assert mask("k" * 100) == "*" * 32 + "..."


def test_the_text_beside_the_report_says_why_rows_were_dropped(tmp_path):
    rows = [prompt("Hello"), prompt(f"Call {PHONE}"), {"turns": []}]
    _, report = filter_prompts(rows, PrivacySettings(action="drop"))
    report.write(tmp_path / "privacy.json")
    lines = (tmp_path / "privacy.txt").read_text().splitlines()
    assert lines == [
        "3 rows: 1 unchanged, 0 redacted, 2 dropped",
        "       1 dropped: phone in the prompt",
        "       1 dropped: no turns",
        "       1 phone (drop): +## ### ########",
    ]


def test_reports_of_parts_add_up_to_the_report_of_the_whole():
    rows = [prompt("Hello"), prompt(f"Ask {MAIL}"), prompt(f"Call {PHONE}"), {"turns": []}] * 5
    settings = PrivacySettings(actions={"phone": "drop"})
    _, whole = filter_prompts(rows, settings)
    parts = []
    for start in (0, 7, 14):
        privacy = PrivacyFilter(settings)
        list(privacy.stream_prompts(rows[start : start + 7]))
        parts.append(privacy.report)
    assert PrivacyReport.merge(parts).as_json() == whole.as_json()
    assert parts[0].rows == 7


def test_reports_with_other_settings_are_not_added_up():
    with pytest.raises(ValueError, match="different settings"):
        PrivacyReport.merge(
            [PrivacyReport(PrivacySettings()), PrivacyReport(PrivacySettings(action="drop"))]
        )
    with pytest.raises(ValueError, match="no privacy reports"):
        PrivacyReport.merge([])


def test_a_written_report_is_read_as_it_was(tmp_path):
    settings = PrivacySettings(actions={"phone": "drop"}, phone_regions=("DE",))
    _, report = filter_prompts([prompt(f"Ask {MAIL}"), prompt(f"Call {PHONE}")], settings)
    report.write(tmp_path / "privacy.json")
    read = PrivacyReport.read(tmp_path / "privacy.json")
    assert read == report
    assert read.as_json() == report.as_json()


def test_a_file_that_is_no_report_is_refused(tmp_path):
    (tmp_path / "other.json").write_text(json.dumps({"step": "answers", "format": 1}))
    with pytest.raises(ValueError, match="step and format .'answers', 1."):
        PrivacyReport.read(tmp_path / "other.json")


def test_a_report_stays_small_however_many_rows_are_dropped():
    report = PrivacyReport(PrivacySettings())
    for _ in range(ROWS_NAMED + 50):
        report.count_drop("no turns")
    assert len(PrivacyReport.merge([report, report]).dropped_rows) == ROWS_NAMED
    assert report.dropped == {"no turns": ROWS_NAMED + 50}
