"""A broken export is told from a bad head, whatever broke it, and the reason is named."""

import json
import sys
from pathlib import Path

import pytest
import torch
from breaking_exporter import __file__ as EXPORTER
from stub_engine import StubEngine, serving, stub_server
from tiny import tiny_head, tiny_target, word_tokenizer

from eagle_hf.hub.gate import (
    Comparison,
    EngineClient,
    EngineError,
    Gate,
    GateSettings,
    Row,
)
from eagle_hf.hub.gate.by_heart import Reading, Sentences
from eagle_hf.hub.gate.conversation import QUESTIONS, Conversation
from eagle_hf.hub.gate.misreadings import Misreading, misread
from eagle_hf.hub.gate.running import check_known, cut_in_pieces
from eagle_hf.target import target_states


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A target, an untrained head with a flag that some engines ignore, and prompts."""
    path = tmp_path_factory.mktemp("gate")
    target = tiny_target()
    target.save_pretrained(path / "target")
    word_tokenizer().save_pretrained(path / "target")
    tiny_head(target, norm_before_residual=True).save_pretrained(path / "untrained")
    # The first is the question that is learnt: every word is unknown.
    prompts = [{"id": "a", "turns": [QUESTIONS[0]]}, {"id": "b", "turns": ["w5 w9 w7"]}]
    lines = [json.dumps(prompt) for prompt in prompts]
    (path / "prompts.jsonl").write_text("\n".join(lines))
    return path


def opened(folder: Path, head: str = "trained", how: str | None = None, tokens: int = 18) -> Gate:
    """The gate for a head, with an exporter that breaks something."""
    command = None if how is None else f"{sys.executable} {EXPORTER} {how} {{head}} {{out}}"
    settings = GateSettings(
        new_tokens=tokens,
        categories=(str(folder / "prompts.jsonl"),),
        learnt_tokens=14,
        export_with=command,
    )
    return Gate(str(folder / head), str(folder / "target"), "vllm", settings)


@pytest.fixture(scope="module")
def lesson(folder):
    """What was learnt by heart, which is the trained head, too."""
    learnt = opened(folder, "untrained").learn()
    learnt.head.save_pretrained(folder / "trained")
    return learnt


@pytest.fixture(scope="module")
def half_learnt(folder, lesson):
    """A head that unlearnt nothing: read wrong, it loses some drafts, other ones each way."""
    gate = opened(folder, "untrained")
    head = misread(gate.head, Misreading("nothing"))
    head.set_draft_vocabulary(lesson.head.draft_to_target)
    sentences = Sentences(gate.target, head, lesson.conversation, depth=3)
    aux, _ = target_states(gate.target, [sentences.tokens], head.config.aux_layer_ids)
    optimizer = torch.optim.Adam(head.parameters(), lr=5e-3)
    for _ in range(40):
        optimizer.zero_grad()
        sentences.loss(head, Reading(head, aux, right_passes=3)).backward()
        optimizer.step()
    head.save_pretrained(folder / "half_learnt")


@pytest.fixture
def verdict_of(folder, lesson, tmp_path):
    def ask(head="trained", how=None, load=None):
        gate = opened(folder, head, how)
        return gate.run(stub_server(gate.target, load), tmp_path, lesson)

    return ask


def test_a_sound_export_is_accepted_whole_and_as_often_as_here(verdict_of, tmp_path):
    verdict = verdict_of()
    assert verdict.word == "ok", verdict.text()
    assert verdict.learnt.accepted == verdict.learnt.accepted_here == 9 * len(verdict.learnt.rows)
    assert verdict.own.engine_tau == verdict.own.replayed_tau == verdict.own.generate_tau > 1.2
    assert json.loads((tmp_path / "gate.json").read_text())["verdict"] == "ok"


def test_an_untrained_head_is_a_bad_head(verdict_of):
    verdict = verdict_of("untrained")
    assert verdict.word == "bad head", verdict.text()
    assert verdict.learnt.accepted == verdict.learnt.accepted_here
    assert verdict.failed


@pytest.mark.parametrize(
    ("head", "how", "reason"),
    [
        ("trained", "layers", "aux layers [3, 4, 5], and [2, 3, 4] in the head"),
        ("trained", "d2t", "draft ids mean other tokens"),
        ("trained", "norm", "norm_before_residual is False, and True in the head"),
        ("untrained", "lm_head", "lm_head.weight: the rows of the head in another order"),
    ],
)
def test_a_broken_export_is_one_whatever_the_head_is_worth(verdict_of, head, how, reason):
    verdict = verdict_of(head, how)
    assert verdict.word == "broken export", verdict.text()
    assert verdict.learnt.accepted < 0.2 * verdict.learnt.accepted_here
    assert reason in verdict.text()


@pytest.mark.parametrize(
    ("misreading", "reason"),
    [
        (Misreading("", aux_layer_ids=(1, 2, 3)), "aux layers one lower"),
        (Misreading("", (("norm_before_residual", False),)), "norm_before_residual read as false"),
    ],
)
@pytest.mark.usefixtures("half_learnt")
def test_an_engine_that_misreads_a_sound_folder_is_found_out(folder, tmp_path, misreading, reason):
    gate = opened(folder, "half_learnt", tokens=48)  # in a short text ways to misread look alike
    with serving(StubEngine(gate.target, misread(gate.head, misreading))) as url:
        verdict = gate.compare_running(EngineClient("vllm", url), tmp_path)
    assert verdict.word == "differs", verdict.text()
    assert [reason in found for found in verdict.own.reasons] == [True], verdict.text()


def test_a_target_that_writes_another_text_says_nothing_of_the_head(folder, lesson, tmp_path):
    gate = opened(folder)
    verdict = gate.run(stub_server(tiny_target(seed=5).to(gate.target.dtype)), tmp_path, lesson)
    assert verdict.word == "another text", verdict.text()
    assert "texts are not those of the target here" in verdict.text()


def test_a_server_that_runs_already_is_compared_without_learning(folder, lesson, tmp_path):
    gate = opened(folder)
    with serving(StubEngine(gate.target, gate.head)) as url:
        verdict = gate.compare_running(EngineClient("vllm", url), tmp_path)
    assert (verdict.word, verdict.learnt) == ("ok", None)


def test_a_server_with_a_better_head_serves_another_one(folder, lesson, tmp_path):
    gate = opened(folder, "untrained")
    with serving(StubEngine(gate.target, lesson.head)) as url:
        verdict = gate.compare_running(EngineClient("vllm", url), tmp_path)
    assert verdict.word == "differs"
    assert "is it another head that it serves?" in verdict.text()


def test_another_chat_template_is_noted(folder, lesson, tmp_path):
    gate = opened(folder)
    stub = StubEngine(gate.target, gate.head)
    stub.raw["/tokenize"] = b'{"tokens": [4, 4]}'
    with serving(stub) as url:
        verdict = gate.compare_running(EngineClient("vllm", url), tmp_path)
    assert "the server's chat template is another: it makes 2 tokens" in verdict.text()


def test_a_server_that_stops_in_the_middle_is_an_error(folder, lesson, tmp_path):
    gate = opened(folder)
    stub = StubEngine(gate.target, gate.head)
    stub.breaks_off_after = 1
    with serving(stub) as url, pytest.raises(EngineError, match="no server answers at"):
        gate.compare_running(EngineClient("vllm", url), tmp_path)


def test_what_was_measured_before_a_server_failed_is_said(folder, lesson, tmp_path):
    gate = opened(folder)
    starts = []
    serve = stub_server(gate.target)

    def serve_once(*arguments):
        starts.append(arguments)
        if len(starts) == 2:
            raise EngineError("no memory")
        return serve(*arguments)

    with pytest.raises(EngineError, match=r"no memory\n.* learnt by heart: 9 of 9 drafts"):
        gate.run(serve_once, tmp_path, lesson)


def test_a_head_that_does_not_know_its_conversation_tells_nothing():
    row = Row(tokens=13, rounds=9, rounds_here=8, counted=3, same_text=True)
    with pytest.raises(ValueError, match="only 4 of 9 drafts accepted here, in float32"):
        check_known(Comparison("learnt by heart", (row,)), GateSettings())


@pytest.mark.parametrize(("how", "words"), [("fail", "no space left"), ("nothing", "wrote no")])
def test_an_exporter_that_fails_is_quoted(verdict_of, how, words):
    with pytest.raises(ValueError, match=words):
        verdict_of(how=how)


def test_pieces_are_one_token_and_three_whole_rounds():
    conversation = Conversation(prompt=[1, 2], answer=list(range(30)))
    pieces = cut_in_pieces(conversation, depth=3)
    assert pieces == [
        ([1, 2], list(range(13))),
        ([1, 2, *range(13)], list(range(13, 26))),
    ]
    with pytest.raises(ValueError, match="give fewer drafts"):
        cut_in_pieces(conversation, depth=30)
