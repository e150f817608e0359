"""What the package rests on in transformers is where it was; where it is not, one sentence says what moved."""

import re
import warnings
from pathlib import Path

import pytest
from transformers.utils import logging

from eagle_hf import compat
from eagle_hf.compat import (
    CACHE_NAMES,
    CONTRACT,
    cache_name,
    quiet_libraries,
    take_cache,
    warn_untested,
)

PACKAGE = Path(compat.__file__).parent


@pytest.mark.parametrize("sentence", CONTRACT)
def test_transformers_keeps_the_contract(sentence):
    assert CONTRACT[sentence](), (
        f"no longer true of transformers {compat.transformers.__version__}: {sentence}"
    )


def test_what_is_gone_is_told_and_not_raised(monkeypatch):
    monkeypatch.delattr(compat.GenerationMixin, "_supports_logits_to_keep")
    assert list(compat.broken_contract()) == [
        "models say by _supports_logits_to_keep() whether one token's logits can be asked for"
    ]


def test_a_release_within_the_tested_range_is_not_spoken_of(monkeypatch):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for version in ("5.17.0", "5.24.3"):
            monkeypatch.setattr(compat.transformers, "__version__", version)
            warn_untested()


@pytest.mark.parametrize("version", ["5.16.9", "5.25.0", "6.0.0.dev0"])
def test_another_release_is_named_with_the_tested_range(monkeypatch, version):
    monkeypatch.setattr(compat.transformers, "__version__", version)
    with pytest.warns(
        UserWarning,
        match=f"tested with transformers 5.17 to 5.24, this is {version}: what the package rests on is in its place",
    ):
        warn_untested()
    monkeypatch.delattr(compat.GenerationMixin, "_supports_logits_to_keep")
    with pytest.warns(
        UserWarning,
        match="it breaks what the package rests on: models say by _supports_logits_to_keep",
    ):
        warn_untested()


def test_no_other_file_spells_the_caches_name():
    own = {
        PACKAGE / "compat.py",
        PACKAGE / "hub" / "custom_generate" / "generate.py",
    }  # the second runs without this package
    for path in set(PACKAGE.rglob("*.py")) - own:
        assert "past_key_values" not in path.read_text(), path


def test_functions_of_either_age_are_given_the_name_they_take():
    def old(input_ids, past_key_values=None):
        pass

    def new(input_ids, cache=None):
        pass

    def wrapper(*args, **kwargs):
        pass

    assert (cache_name(old), cache_name(new)) == ("past_key_values", "cache")
    assert cache_name(wrapper) == compat.GENERATE_CACHE


@pytest.mark.parametrize("name", CACHE_NAMES)
def test_a_cache_is_found_under_either_name(name):
    both = dict.fromkeys(CACHE_NAMES) | {name: "cache", "position_ids": 1}
    assert take_cache(both) == ("cache", {"position_ids": 1})


def test_setup_admits_what_is_tested_and_nothing_newer():
    text = (PACKAGE.parent / "setup.py").read_text()
    oldest, newest = compat.TESTED
    major, minor = newest.split(".")
    assert f'"transformers>={oldest},<{major}.{int(minor) + 1}"' in text
    assert re.search(r'"torch>=2\.11,<2\.\d+"', text)


def test_libraries_are_silent_within_and_as_before_after(capsys):
    before = logging.get_verbosity()
    with quiet_libraries():
        assert not logging.is_progress_bar_enabled()
        logging.get_logger("transformers.any").warning("noise")
        warnings.warn("noise", UserWarning, stacklevel=1)
    assert capsys.readouterr().err == ""
    assert logging.get_verbosity() == before
    assert logging.is_progress_bar_enabled()
