"""Settings of the privacy filter, from Python and from YAML."""

import pytest
import yaml

from eagle_hf.data import PrivacySettings


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"action": "hide"}, "action is 'hide'; take one of redact, drop, report"),
        ({"actions": {"email": "keep"}}, "action is 'keep'"),
        ({"actions": {"mail": "drop"}}, "no kind is called 'mail'"),
        ({"actions": {"person": "drop"}}, "only a model finds; set names"),
        ({"names": "bert"}, "names is 'bert'; take one of rampart"),
        ({"phone_regions": ("Germany",)}, "region is 'Germany'"),
        ({"phone_regions": "DE"}, "phone_regions is 'DE'; a list of countries"),
        ({"actions": ["email"]}, "actions is .'email'.; a mapping"),
        ({"max_characters": 0}, "max_characters is 0"),
        ({"max_characters": "1M"}, "max_characters is '1M'"),
    ],
)
def test_settings_without_a_meaning_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        PrivacySettings(**settings)


def test_settings_are_read_from_a_section_of_yaml():
    section = yaml.safe_load("""
        action: report
        actions: {private_key: drop, phone: redact}
        phone_regions: [DE, FR]
        max_characters: 5000
    """)
    assert PrivacySettings.read(section) == PrivacySettings(
        action="report",
        actions={"private_key": "drop", "phone": "redact"},
        phone_regions=("DE", "FR"),
        max_characters=5000,
    )


def test_an_empty_section_has_the_defaults():
    assert PrivacySettings.read(yaml.safe_load("")) == PrivacySettings()
    assert PrivacySettings.read({}) == PrivacySettings()


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ("action: hide", "action is 'hide'; take one of redact, drop, report"),
        ("actions: {mail: drop}", "no kind is called 'mail'; take one of email, "),
        ("kinds: [email]", "no privacy setting is called kinds; take some of action, actions"),
        ("phone_regions: [DE, NO]", "phone region is False; .*with quotes in YAML"),
        ("- email", "settings are of type list; a mapping is needed"),
    ],
)
def test_a_section_without_a_meaning_is_refused(section, message):
    with pytest.raises(ValueError, match=message):
        PrivacySettings.read(yaml.safe_load(section))
