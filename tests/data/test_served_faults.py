"""Servers that are busy, broken, gone or not what they say, over real HTTP."""

import threading
import time

import pytest
from answer_server import MODEL, AnswerServer, Reply, completion, last_question, with_ids

from eagle_hf.data.answers import ServingSettings, TurnStore, write_served_responses
from eagle_hf.data.answers.pool import LONGEST_REST_S, Server

pytest.importorskip("aiohttp", reason="answers from servers need aiohttp")
pytest.importorskip("stamina", reason="answers from servers need stamina")

GOOD = with_ids()
FAULTS = {
    "429": Reply(b"slow down", status=429, headers={"Retry-After": "0.01"}),
    "408": Reply(b"too slow", status=408),
    "500": Reply(b"out of memory", status=500),
    "503": Reply(b"loading", status=503),
    "stall": Reply(GOOD, delay_s=60),
    "broken JSON": Reply(b'{"model": "tiny", "choices": [{"message"'),
    "HTML with 200": Reply(b"<html><body>Bad gateway</body></html>"),
    "error with 200": Reply({"error": {"message": "overloaded"}}),
    "cut": Reply(GOOD, cut=40),
    "cut chunks": Reply(
        b'10\r\n{"model": "tiny"', headers={"Transfer-Encoding": "chunked"}, cut=20
    ),
    "hung up": Reply(hangs_up=True),
    "no finish reason": Reply(completion("half an ans", finish_reason=None)),
}


def settings(**changes):
    """Settings that lose no time between attempts."""
    quick = dict(model=MODEL, concurrency=4, first_wait_s=0.01, longest_wait_s=0.05, timeout_s=10)
    return ServingSettings(**(quick | changes))


def numbered(count):
    return [{"id": f"p{number}", "turns": [f"q{number}"]} for number in range(count)]


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_asked_again_and_never_kept(fault, tmp_path):
    def fail_once(server, body):
        is_first = server.counts[last_question(body)] == 1
        return FAULTS[fault] if is_first else Reply(GOOD)

    timeout_s = 1 if fault == "stall" else 10
    with AnswerServer(fail_once) as server:
        report = write_served_responses(
            [server.url], numbered(3), tmp_path, settings(timeout_s=timeout_s)
        )
    assert report.finished == report.prompts == 3
    assert set(server.counts.values()) == {2}
    with TurnStore(tmp_path) as store:
        for prompt in numbered(3):
            assert [turn.text for turn in store.turns(prompt["id"])] == ["hello"]


@pytest.mark.parametrize("fault", ["500", "broken JSON", "hung up"])
def test_a_fault_that_stays_fails_after_all_attempts(fault, tmp_path):
    def fail_for_one(server, body):
        return FAULTS[fault] if last_question(body) == "q1" else Reply(GOOD)

    with AnswerServer(fail_for_one) as server:
        report = write_served_responses([server.url], numbered(3), tmp_path, settings(attempts=3))
    assert report.finished == 2
    assert [row.id for row in report.failed] == ["p1"]
    assert server.counts == {"q0": 1, "q1": 3, "q2": 1}


@pytest.mark.parametrize("status", [400, 413, 422])
def test_a_refused_prompt_is_asked_once(status, tmp_path):
    def refuse_one(server, body):
        return Reply(b"no", status=status) if last_question(body) == "q1" else Reply(GOOD)

    with AnswerServer(refuse_one) as server:
        report = write_served_responses([server.url], numbered(2), tmp_path, settings())
    assert server.counts["q1"] == 1
    assert report.skipped == [("p1", f"turn 1: HTTP {status}: no")]


def test_the_pause_a_server_asks_for_is_kept(tmp_path):
    times = []

    def ask_for_a_pause(server, body):
        times.append(time.monotonic())
        pause = Reply(b"", status=429, headers={"Retry-After": "0.3"})
        return pause if len(times) == 1 else Reply(GOOD)

    with AnswerServer(ask_for_a_pause) as server:
        write_served_responses([server.url], numbered(1), tmp_path, settings())
    assert times[1] - times[0] >= 0.3


def test_a_server_that_asks_for_a_day_is_asked_again_after_patience_s(tmp_path):
    def ask_for_a_day(server, body):
        is_first = server.counts.total() == 1
        return Reply(b"", status=429, headers={"Retry-After": "86400"}) if is_first else Reply(GOOD)

    began = time.monotonic()
    with AnswerServer(ask_for_a_day) as server:
        report = write_served_responses(
            [server.url], numbered(1), tmp_path, settings(patience_s=0.3)
        )
    assert report.finished == 1
    assert 0.3 <= time.monotonic() - began < 60


def test_a_dying_server_leaves_its_work_to_the_others(tmp_path):
    def slowly(server, body):
        return Reply(GOOD, delay_s=0.01)

    def die_soon(server, body):
        if server.counts.total() == 3:
            threading.Thread(target=server.stop).start()
        return slowly(server, body)

    with AnswerServer(slowly) as healthy, AnswerServer(die_soon) as dying:
        urls = [healthy.url, dying.url]
        report = write_served_responses(urls, numbered(30), tmp_path, settings())
    assert report.finished == report.prompts == 30
    assert dying.counts.total() < 15
    assert healthy.most_at_once <= 4


def test_a_server_that_comes_back_goes_on(tmp_path):
    def die_soon(server, body):
        if server.counts.total() == 3:
            threading.Thread(target=replace_server).start()
        return Reply(GOOD)

    def replace_server():
        first.stop()
        time.sleep(0.3)
        second.__enter__()

    with AnswerServer(die_soon) as first:
        second = AnswerServer(lambda server, body: Reply(GOOD), port=first.port)
        # What is in flight breaks off and costs an attempt; that nobody is there costs none.
        patient = settings(attempts=2)
        report = write_served_responses([first.url], numbered(20), tmp_path, patient)
        second.stop()
    assert report.finished == report.prompts == 20
    assert second.counts.total() > 0


def test_without_any_server_the_rest_fails_and_what_is_there_stays(tmp_path):
    def die_soon(server, body):
        if server.counts.total() == 5:
            threading.Thread(target=server.stop).start()
        return Reply(GOOD, delay_s=0.01)

    with AnswerServer(die_soon) as server:
        impatient = settings(patience_s=0.5)
        report = write_served_responses([server.url], numbered(20), tmp_path, impatient)
    assert 1 <= report.finished <= 8
    assert report.prompts == 20
    assert "no server could be reached for 0 s" in report.failed[-1].reason
    with AnswerServer() as server:
        again = write_served_responses([server.url], numbered(20), tmp_path, settings())
    assert again.already_there == report.finished
    assert again.finished + again.already_there == 20


def test_a_model_that_is_not_served_is_refused_before_anything_is_written(tmp_path):
    with (
        AnswerServer() as honest,
        AnswerServer(models=("other", "tiny-base")) as other,
        pytest.raises(
            ValueError, match="serves other, tiny-base; 'tiny' is not among them"
        ) as caught,
    ):
        write_served_responses([honest.url, other.url], numbered(1), tmp_path, settings())
    assert other.url in str(caught.value)
    assert honest.counts.total() == other.counts.total() == 0
    assert list(tmp_path.iterdir()) == []


def test_a_server_that_lies_about_its_model_stops_the_run(tmp_path):
    def lie(server, body):
        return Reply(completion(model="tiny-base"))

    with (
        AnswerServer(lie) as server,
        pytest.raises(ValueError, match="the model 'tiny-base' answered and 'tiny' was asked"),
    ):
        write_served_responses([server.url], numbered(9), tmp_path, settings(concurrency=1))
    assert server.counts.total() == 1
    with TurnStore(tmp_path) as store:
        assert list(store.prompts()) == []


def test_a_server_that_refuses_the_key_stops_the_run(tmp_path):
    with (
        AnswerServer(lambda server, body: Reply(b"bad key", status=401)) as server,
        pytest.raises(ValueError, match="cannot be used: HTTP 401: bad key"),
    ):
        write_served_responses([server.url], numbered(9), tmp_path, settings(concurrency=1))
    assert server.counts.total() == 1


def test_a_server_that_is_not_there_is_named(tmp_path):
    with AnswerServer() as server:
        gone = server.url
    with pytest.raises(ValueError, match="does not list its models") as caught:
        write_served_responses([gone], numbered(1), tmp_path, settings())
    assert gone in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_server_that_is_gone_rests_longer_each_time_and_is_tried_by_one_request():
    now = [0.0]
    server = Server("http://h/v1", clock=lambda: now[0])
    rests = []
    for _ in range(2000):
        server.note_gone()
        began = now[0]
        while not server.may_be_asked(8):
            now[0] += 0.5
        rests.append(now[0] - began)
    assert rests[:3] == [0.5, 1.0, 2.0]
    assert max(rests) == rests[-1] == LONGEST_REST_S
    assert server.gone_s() == now[0]
    server.begin()
    assert not server.may_be_asked(8)
    server.note_reached()
    assert server.may_be_asked(8)
    assert server.gone_s() == 0


def test_a_judge_of_clients_finds_no_fault(request, tmp_path):
    pytest.importorskip("llmock", reason="the judge is llmock")
    pytest.importorskip("fastapi", reason="llmock serves through fastapi")
    llmock = request.getfixturevalue("llmock")
    model = "gpt-4o-mini"
    llmock.fail(429, times=1, retry_after=0.3, model=model)
    llmock.fail(500, times=1, model=model)
    llmock.fail(400, times=1, model=model)
    judged = settings(model=model, concurrency=1, timeout_s=5, first_wait_s=0.2, longest_wait_s=2)
    report = write_served_responses([llmock.url], numbered(4), tmp_path, judged)
    assert (report.finished, len(report.skipped)) == (3, 1)
    llmock.assert_resilient(strict=True)
