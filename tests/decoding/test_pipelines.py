"""pipeline("text-generation", assistant_model=...): every assistant, one text and batches."""

import pytest
from tiny import tiny_head, word_tokenizer
from transformers import pipeline

from eagle_hf import SelfSpeculation, WindowedDraft

TEXTS = ["w5 w9 w11", "w7 w8 w9 w10 w12 w13", "w4"]


@pytest.fixture(scope="module")
def assistants(target, head, small_model):
    untied = tiny_head(target)
    untied.config.eos_token_id = 7  # another end token than the target's, which generate ignores
    return {
        "head": head,
        "other ids": untied,
        "itself": SelfSpeculation(2, 9),
        "model": WindowedDraft(small_model, sinks=2, window=9),
    }


def answers(target, assistant, **settings):
    """The texts of a pipeline with this assistant."""
    tokenizer = word_tokenizer()
    tokenizer.padding_side = "left"
    pipe = pipeline("text-generation", model=target, tokenizer=tokenizer, assistant_model=assistant)
    return pipe(TEXTS, max_new_tokens=20, do_sample=False, **settings)


@pytest.mark.parametrize("name", ["head", "other ids", "itself", "model"])
@pytest.mark.parametrize("batch_size", [1, 3])
def test_a_pipeline_says_with_an_assistant_what_it_says_alone(target, assistants, name, batch_size):
    assistant = assistants[name]
    plain = answers(target, None, batch_size=batch_size)
    assert answers(target, assistant, batch_size=batch_size) == plain
    assert assistant.last_run.rounds > 0
    assert assistant.last_run.rows == batch_size


def test_other_assistants_are_compared_as_before(target, small_model):
    other = small_model.__class__(small_model.config.__class__(**small_model.config.to_dict()))
    other.config.eos_token_id = 9
    with pytest.raises(ValueError, match="different tokenizer than the main model"):
        answers(target, other)
