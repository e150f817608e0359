"""A call in another thread: its steps arrive in order, its errors too, and it can be left."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from eagle_hf.demo.streams import StreamedCall

PROMPT = torch.tensor([[5, 6, 7]])
DEADLINE = 20  # seconds


@pytest.fixture
def executor():
    with ThreadPoolExecutor(1) as threads:
        yield threads


def tokens_of(call):
    return [step.tokens for frame in call.frames() for step in frame]


def test_steps_arrive_in_order_without_the_prompt(executor):
    def generate(streamer):
        for value in (PROMPT, torch.tensor([8]), torch.tensor([9, 10])):
            streamer.put(value)
        return "output"

    with StreamedCall(generate, executor) as call:
        assert tokens_of(call) == [[8], [9, 10]]
        assert call.output() == "output"


def test_what_arrived_before_an_error_is_seen_before_it(executor):
    def generate(streamer):
        streamer.put(PROMPT)
        streamer.put(torch.tensor([8]))
        raise ValueError("no more")

    with StreamedCall(generate, executor) as call:
        assert tokens_of(call) == [[8]]
        with pytest.raises(ValueError, match="no more"):
            call.output()


def test_leaving_the_block_ends_the_call(executor):
    put = []
    has_ended = threading.Event()

    def generate(streamer):
        try:
            while True:
                streamer.put(torch.tensor([len(put)]))
                put.append(len(put))
        finally:
            has_ended.set()

    with StreamedCall(generate, executor) as call:
        next(call.frames())
    assert has_ended.wait(DEADLINE)
    assert len(put) > 0


def test_calls_take_turns_and_one_that_waits_can_be_left(executor):
    goes_on = threading.Event()
    begun = []

    def first(streamer):
        begun.append("first")
        goes_on.wait(DEADLINE)

    def second(streamer):
        begun.append("second")

    with StreamedCall(first, executor) as running:
        with StreamedCall(second, executor) as waiting:
            next(waiting.frames())
        goes_on.set()
        running.output()
    executor.shutdown(wait=True)
    assert begun == ["first"]
