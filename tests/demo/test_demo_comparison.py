"""Both answers are those of `generate`, and their figures those of the run."""

import pytest
import torch
from tiny import word_tokenizer

from eagle_hf.data.prompts.suites import first_turn_ids
from eagle_hf.demo.comparison import compare
from eagle_hf.demo.models import DemoModels, Question, find_head
from eagle_hf.demo.streams import Stopped
from eagle_hf.demo.views import difference_text

QUESTION = dict(prompt="w8 w9 w10", tree="dynamic:4:6:24", max_new_tokens=60)


def last(frames):
    """The last frame."""
    return list(frames)[-1]


def generated(models, question):
    """The new text of plain generate."""
    inputs = first_turn_ids(models.tokenizer, {"turns": [question.prompt]})
    torch.manual_seed(question.seed)
    settings = dict(do_sample=False)
    if question.temperature:
        settings = dict(do_sample=True, temperature=question.temperature, top_k=0)
    output = models.target.generate(**inputs, max_new_tokens=question.max_new_tokens, **settings)
    new = output[0, inputs["input_ids"].shape[1] :]
    return models.tokenizer.decode(new, skip_special_tokens=True), len(new)


def text_of(answer):
    return "".join(piece.text for piece in answer.pieces)


@pytest.mark.parametrize("temperature", [0.0, 0.9])
def test_both_answers_are_what_generate_says(models, temperature):
    question = Question(**QUESTION, temperature=temperature, seed=3)
    shown = last(compare(models, question))
    text, count = generated(models, question)
    for answer in (shown.plain, shown.drafted):
        assert text_of(answer) == text
        assert answer.tokens == count
        assert answer.is_finished
    assert shown.difference is None
    assert shown.parting is None


def test_figures_are_those_of_the_run(models):
    shown = last(compare(models, Question(**QUESTION)))
    run = models.head.last_run
    assert shown.drafted.rounds == run.rounds > 0
    assert shown.drafted.tau == run.tau > 1
    depths = [piece.depth for piece in shown.drafted.pieces]
    counts = [depths.count(depth + 1) for depth in range(len(run.accepted))]
    assert counts == run.accepted
    assert not any(piece.depth for piece in shown.plain.pieces)
    assert len(shown.drafted.tree.tokens) > 1
    assert shown.plain.rounds == 0
    ratio = shown.drafted.tokens_per_second / shown.plain.tokens_per_second
    assert shown.speedup == ratio > 0


def test_the_target_answers_first_and_the_head_only_then(models):
    for shown in compare(models, Question(**QUESTION)):
        assert shown.plain.is_finished or shown.drafted.tokens == 0


def test_answers_that_part_are_found(models, monkeypatch):
    """A head whose output is changed behind the loop's back, in its tenth token."""
    real = DemoModels._generate

    def broken(self, inputs, question, drafts, streamer):
        output = real(self, inputs, question, drafts, streamer)
        if drafts:
            place = inputs["input_ids"].shape[1] + 9
            output[0, place] = (output[0, place] + 1) % 31
        return output

    monkeypatch.setattr(DemoModels, "_generate", broken)
    shown = last(compare(models, Question(**QUESTION)))
    assert shown.parting == 9
    assert not shown.difference.is_tie


@pytest.mark.parametrize(
    "change, said",
    [
        (dict(prompt=" \n"), "the prompt is empty"),
        (dict(tree="forest:3:5:8"), "tree policy is 'forest'"),
        (dict(tree=""), "the tree is ''; write policy:depth:top_k:nodes"),
        (dict(temperature=-1), "temperature is -1; give a number from 0"),
        (dict(temperature=None), "temperature is None"),
        (dict(max_new_tokens=0), "max_new_tokens is 0; give a whole number from 1"),
        (dict(seed=None), "seed is None; give a whole number from 0"),
        (dict(seed=2**63), "seed is 9223372036854775808; give a whole number from 0"),
    ],
)
def test_questions_without_sense_are_refused(change, said):
    with pytest.raises(ValueError, match=said):
        Question(**QUESTION | change)


def test_a_prompt_beyond_the_context_is_refused_with_what_fits(models):
    question = Question(**QUESTION | dict(prompt="w8 " * 500))
    with pytest.raises(ValueError, match="has 503 tokens .* is 512 tokens; give at most 452 "):
        next(compare(models, question))


def test_a_tree_that_the_head_cannot_draft_is_refused(models):
    with pytest.raises(ValueError, match="plan"):
        last(compare(models, Question(**QUESTION | dict(tree="adaptive:4:6:24"))))


def test_drafts_accepted_by_rejection_may_give_another_answer(models):
    question = Question(**QUESTION | dict(tree="chain:3:1:3:rejection"), temperature=1.0)
    shown = last(compare(models, question))
    assert shown.difference is not None
    assert "keep the distribution" in difference_text(shown, shown.difference, "float64")
    greedy = Question(**QUESTION | dict(tree="chain:3:1:3:rejection"))
    assert last(compare(models, greedy)).difference is None


def test_closed_models_end_what_runs(target, head, monkeypatch):
    def endless(self, inputs, question, drafts, streamer):
        while True:
            streamer.put(torch.tensor([5]))

    monkeypatch.setattr(DemoModels, "_generate", endless)
    models = DemoModels(target, word_tokenizer(), head, "tiny", "luck")
    question = Question(**QUESTION)
    call = models.answer(models.inputs(question), question, drafts=False)
    next(call.frames())
    models.close()
    with pytest.raises(Stopped):
        call.output()


def test_the_projects_head_is_for_its_own_target():
    assert find_head("smollm2", None).endswith("smollm2-135m-instruct-eagle3")
    assert find_head("other", "own") == "own"
    with pytest.raises(ValueError, match="no --head was given"):
        find_head("other", None)


def test_without_the_projects_head_another_is_asked_for(monkeypatch, tmp_path):
    monkeypatch.setattr("eagle_hf.demo.models.REFERENCE", tmp_path)
    with pytest.raises(ValueError, match="or give a --head"):
        find_head("smollm2", None)
