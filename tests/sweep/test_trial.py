"""The trial itself: it notices what it is there for."""

from eagle_hf import SelfSpeculation
from eagle_hf.decoding import verifier
from eagle_hf.decoding.verify import Verdict
from sweep.models import all_entries, build
from sweep.page import cells, short_reason
from sweep.trial import ASSISTANTS, Outcome, failed, try_class

LLAMA = next(entry for entry in all_entries() if entry.name == "LlamaForCausalLM (LlamaConfig)")


def accept_first_child(children, choose, emit):
    """A wrong rule: it accepts the first draft, whatever the target chooses."""
    token = next(iter(children[0]), None)
    if token is None:
        token = choose(0)
    return Verdict([0], [token], emit(token), 1, 1)


def test_a_wrong_acceptance_rule_is_a_difference(monkeypatch):
    monkeypatch.setattr(verifier, "verify", accept_first_child)
    for outcome in try_class(LLAMA).values():
        assert outcome.kind == "difference"


def test_an_error_that_this_package_did_not_phrase_is_a_crash(monkeypatch):
    def broken_head(target):
        raise ValueError("not enough values to unpack")

    monkeypatch.setitem(ASSISTANTS, "head", broken_head)
    outcome = try_class(LLAMA)["head"]
    assert outcome == Outcome("crash", "greedy: ValueError: not enough values to unpack")


def test_a_refusal_after_the_prompt_was_read_is_late():
    error = None
    try:
        SelfSpeculation(gamma=0)
    except ValueError as caught:
        error = caught
    assert failed(error, "greedy", reads=0).kind == "refused"
    assert failed(error, "greedy", reads=1).kind == "late refusal"


def test_drafts_are_accepted_so_that_the_trial_means_something():
    for outcome in try_class(LLAMA).values():
        assert outcome.tau > 1


def test_matrices_of_a_tiny_model_are_drawn_anew():
    for name, weight in build(LLAMA).named_parameters():
        if weight.dim() > 1:
            assert 0.2 < weight.std() < 0.3, name


def test_a_reason_is_a_sentence_without_the_class():
    sentence = "BloomForCausalLM.forward takes no position_ids, so nodes cannot be placed; use more"
    assert short_reason(sentence) == "forward takes no position_ids, so nodes cannot be placed"


def test_a_window_that_is_refused_leaves_the_whole_cache():
    outcomes = {
        "head": Outcome("refused", "GitForCausalLM has no list of layers: look"),
        "WindowedDraft(window=None)": Outcome("served"),
        "WindowedDraft": Outcome("refused", "no single rotary embedding"),
        "SelfSpeculation": Outcome("crash", "RuntimeError: shapes"),
    }
    assert cells(outcomes) == ["has no list of layers", "whole cache", "**crash**"]


def test_what_is_refused_throughout_has_one_cell():
    refusal = Outcome("refused", "MambaForCausalLM has layers of the kind ['mamba']: use another")
    assert cells(dict.fromkeys(ASSISTANTS, refusal)) == ["has layers of the kind ['mamba']"]
