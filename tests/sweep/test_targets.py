"""Any target: served losslessly, or refused by name before it reads anything."""

import pytest
import transformers

from sweep.models import Entry, all_entries
from sweep.page import cells, read_page
from sweep.trial import try_class

VERSION, ROWS = read_page()
ENTRIES = {entry.name: entry for entry in all_entries()}
TRIED = [name for name, entry in ENTRIES.items() if entry.reason_unbuilt is None]
SAMPLE = [
    "BertLMHeadModel (BertConfig)",
    "BloomForCausalLM (BloomConfig)",
    "Cohere2ForCausalLM (Cohere2Config)",
    "DeepseekV3ForCausalLM (DeepseekV3Config)",
    "Exaone4_5_ForConditionalGeneration (Exaone4_5_Config)",
    "Gemma3ForCausalLM (Gemma3TextConfig)",
    "GPT2LMHeadModel (GPT2Config)",
    "GPTNeoForCausalLM (GPTNeoConfig)",
    "LlamaForCausalLM (LlamaConfig)",
    "MambaForCausalLM (MambaConfig)",
    "PaliGemmaForConditionalGeneration (PaliGemmaConfig)",
    "Qwen3MoeForCausalLM (Qwen3MoeConfig)",
]
other_version = pytest.mark.skipif(
    transformers.__version__ != VERSION, reason=f"docs/targets.md is about transformers {VERSION}"
)


def check_class(entry: Entry) -> None:
    """Try a class; compare with the page where it is about this version."""
    outcomes = try_class(entry)
    for name, outcome in outcomes.items():
        assert not outcome.is_finding, f"{name}: {outcome.kind}: {outcome.detail}"
    if transformers.__version__ == VERSION:
        assert ROWS[entry.name] == cells(outcomes)


@other_version
def test_the_page_has_every_class_of_transformers():
    assert set(ROWS) == set(ENTRIES)


@other_version
def test_classes_are_left_out_for_a_reason_that_the_page_gives():
    for name, entry in ENTRIES.items():
        if entry.reason_unbuilt is not None:
            assert ROWS[name] == [entry.reason_unbuilt]


@pytest.mark.parametrize("name", SAMPLE)
def test_a_class_is_served_or_refused(name):
    check_class(ENTRIES[name])


@pytest.mark.slow
@other_version
@pytest.mark.parametrize("name", sorted(set(TRIED) - set(SAMPLE)))
def test_every_other_class_is_served_or_refused(name):
    check_class(ENTRIES[name])
