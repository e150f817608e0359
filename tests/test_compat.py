"""What the package needs of transformers is in its place; otherwise a sentence says what moved."""

import re
import warnings
from pathlib import Path

import pytest
from transformers.utils import logging

from eagle_hf import compat, contract
from eagle_hf.compat import CACHE_NAMES, cache_name, quiet_libraries, take_cache
from eagle_hf.contract import CONTRACT, warn_untested

PACKAGE = Path(compat.__file__).parent

# These files may spell the cache's name. The second one runs without this package.
SPELL_THE_CACHE = {
    PACKAGE / "compat.py",
    PACKAGE / "hub" / "custom_generate" / "generate.py",
}


@pytest.mark.parametrize("sentence", CONTRACT)
def test_transformers_keeps_the_contract(sentence):
    version = contract.transformers.__version__
    assert CONTRACT[sentence](), f"no longer true of transformers {version}: {sentence}"


def test_a_broken_contract_is_named_and_does_not_raise(monkeypatch):
    monkeypatch.delattr(contract.GenerationMixin, "_supports_logits_to_keep")
    assert list(contract.broken_contract()) == [
        "models say by _supports_logits_to_keep() whether one token's logits can be asked for"
    ]


@pytest.mark.parametrize("version", ["5.17.0", "5.24.3"])
def test_a_tested_release_causes_no_warning(monkeypatch, version):
    monkeypatch.setattr(contract.transformers, "__version__", version)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_untested()


@pytest.mark.parametrize("version", ["5.16.9", "5.25.0", "6.0.0.dev0"])
def test_another_release_is_named_with_the_tested_range(monkeypatch, version):
    monkeypatch.setattr(contract.transformers, "__version__", version)
    with pytest.warns(
        UserWarning,
        match=(
            f"tested with transformers 5.17 to 5.24, this is {version}: "
            "what the package rests on is in its place"
        ),
    ):
        warn_untested()


@pytest.mark.parametrize("version", ["5.16.9", "5.25.0", "6.0.0.dev0"])
def test_another_release_is_named_with_what_it_breaks(monkeypatch, version):
    monkeypatch.setattr(contract.transformers, "__version__", version)
    monkeypatch.delattr(contract.GenerationMixin, "_supports_logits_to_keep")
    with pytest.warns(
        UserWarning,
        match="it breaks what the package rests on: models say by _supports_logits_to_keep",
    ):
        warn_untested()


def test_no_other_file_spells_the_caches_name():
    for path in set(PACKAGE.rglob("*.py")) - SPELL_THE_CACHE:
        assert "past_key_values" not in path.read_text(), path


def test_a_function_of_either_age_gets_the_cache_by_the_name_it_takes():
    def old(input_ids, past_key_values=None):
        pass

    def new(input_ids, cache=None):
        pass

    assert cache_name(old) == "past_key_values"
    assert cache_name(new) == "cache"


def test_a_wrapper_gets_the_cache_by_the_name_that_generate_uses():
    def wrapper(*args, **kwargs):
        pass

    assert cache_name(wrapper) == compat.GENERATE_CACHE


@pytest.mark.parametrize("name", CACHE_NAMES)
def test_a_cache_is_found_under_either_name(name):
    both = dict.fromkeys(CACHE_NAMES) | {name: "cache", "position_ids": 1}
    assert take_cache(both) == ("cache", {"position_ids": 1})


def test_setup_admits_what_is_tested_and_nothing_newer():
    text = (PACKAGE.parent / "setup.py").read_text()
    oldest, newest = contract.TESTED
    major, minor = newest.split(".")
    assert f'"transformers>={oldest},<{major}.{int(minor) + 1}"' in text
    assert re.search(r'"torch>=2\.11,<2\.\d+"', text)


def test_libraries_are_quiet_within_the_block_and_as_before_after_it(capsys):
    before = logging.get_verbosity()
    with quiet_libraries():
        assert not logging.is_progress_bar_enabled()
        logging.get_logger("transformers.any").warning("noise")
        warnings.warn("noise", UserWarning, stacklevel=1)
    assert capsys.readouterr().err == ""
    assert logging.get_verbosity() == before
    assert logging.is_progress_bar_enabled()
