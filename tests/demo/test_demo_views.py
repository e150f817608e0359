"""The page's HTML: escaped, coloured by depth, honest about differences."""

import math
from types import SimpleNamespace

import pytest
from tiny import word_tokenizer

from eagle_hf.demo.comparison import Comparison
from eagle_hf.demo.drafted_tree import DraftedTree
from eagle_hf.demo.page import answer, panels_of
from eagle_hf.demo.pieces import Piece
from eagle_hf.demo.streams import Step
from eagle_hf.demo.views import drafted_html, status_html, tree_html
from eagle_hf.evaluation.equality import Difference

TREE = DraftedTree((5, 6, 7), (0, 0, 1), accepted=(1, 2), bonus=8)


@pytest.fixture
def shown() -> Comparison:
    """A first token without a round, then a round with two accepted drafts."""
    comparison = Comparison.empty(word_tokenizer(), prompt_tokens=4)
    comparison.plain.add(Step([5, 6, 7, 8], 4.0, None))
    comparison.drafted.add(Step([5], 0.5, None))
    comparison.drafted.add(Step([6, 7, 8], 2.0, TREE))
    comparison.plain.finish()
    comparison.drafted.finish()
    return comparison


def test_accepted_drafts_are_coloured_by_depth(shown):
    html = drafted_html(shown)
    first, second = 'class="draft depth-1"', 'class="draft depth-2"'
    assert html.index("w5") < html.index(first) < html.index("w6") < html.index(second)
    assert html.index(second) < html.index("w7") < html.index("w8")
    assert html.count("draft depth-") == 2


def test_figures_are_named(shown):
    html = drafted_html(shown)
    for name, value in (("tokens/s", "2.0"), ("times alone", "2.00"), ("tau", "3.00")):
        assert f"<dt>{name}</dt><dd>{value}</dd>" in html


def test_before_the_first_token_there_are_dashes():
    html = drafted_html(Comparison.empty(word_tokenizer()))
    assert html.count("<dd>\u2013</dd>") == 3


def test_texts_are_escaped(shown):
    shown.drafted.pieces = [Piece("<script>", 1, 0), Piece("&lt;", 0, 1)]
    html = drafted_html(shown)
    assert "<script>" not in html
    assert "&lt;script&gt;" in html
    assert "&amp;lt;" in html


@pytest.mark.parametrize(
    "difference, dtype, said",
    [
        (None, "float32", "Identical: both answers are the same 4 tokens."),
        (Difference(6, 0.25), "bfloat16", "part at token 3 of 4. There the target alone preferred"),
        (Difference(6, 0.25), "bfloat16", "start the demo with --dtype float32"),
        (Difference(6, 1e-6), "float32", "That is a tie, within the rounding of float32."),
        (Difference(6, 0.25), "float32", "That must not happen in float32"),
        (Difference(6, math.inf), "bfloat16", "That must not happen in bfloat16"),
    ],
)
def test_the_verdict_says_what_a_difference_means(shown, difference, dtype, said):
    shown.difference = difference
    assert said in status_html(shown, dtype)


def test_the_place_where_answers_part_is_marked_once(shown):
    shown.difference = Difference(6, 0.25)
    html = drafted_html(shown)
    assert html.count('class="parting"') == 1
    assert html.index("w6") < html.index("parting") < html.index("w7")


def test_a_machine_that_drafts_nothing_says_so(shown):
    shown.drafted.tree = None
    assert "this machine is fastest without one" in tree_html(shown.drafted, word_tokenizer())


def test_rounds_without_drafts_leave_the_last_tree(shown):
    shown.drafted.add(Step([9], 2.5, DraftedTree((8,), (0,), (), 9)))
    assert shown.drafted.tree == TREE
    assert shown.drafted.rounds == 2
    assert shown.drafted.tau == 2.0


def test_a_wrong_question_becomes_a_message_and_no_exception(models):
    frames = list(answer(models, "", "machine", 0, 16, 0))
    assert len(frames) == 1
    assert 'role="alert">the prompt is empty' in frames[0][0]
    assert frames[0][1:] == panels_of(models, Comparison.empty(models.tokenizer))[1:]


def test_memory_that_does_not_suffice_is_a_message_and_a_trace(models, monkeypatch, capsys):
    def no_memory(*args, **kwargs):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(models, "target", SimpleNamespace(generate=no_memory, dtype="float32"))
    monkeypatch.setattr(
        models, "inputs", lambda question: {"input_ids": SimpleNamespace(shape=[1, 3])}
    )
    frames = list(answer(models, "w8", "machine", 0, 16, 0))
    assert "out of memory" in frames[-1][0]
    assert "Traceback" in capsys.readouterr().err
