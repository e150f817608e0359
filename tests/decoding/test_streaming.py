"""Streamers get every token in order, and threads do not disturb each other."""

import asyncio
import threading

import pytest
import torch
from tiny import left_padded, tiny_head, word_tokenizer
from transformers import AsyncTextIteratorStreamer, TextIteratorStreamer, TextStreamer

from eagle_hf.decoding.streaming import RoundStreamer


@pytest.fixture(scope="module")
def tokenizer(target):
    return word_tokenizer(target.config.vocab_size)


def run_all(threads):
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_two_threads_may_generate_on_one_target(target):
    settings = dict(max_new_tokens=40, eos_token_id=None)
    prompts = [left_padded(target, [length]) for length in (7, 12)]
    outputs = {}

    def answer(number, head):
        for _ in range(3):
            outputs[number] = target.generate(**prompts[number], assistant_model=head, **settings)

    threads = []
    for number in range(2):
        arguments = (number, tiny_head(target))
        threads.append(threading.Thread(target=answer, args=arguments))
    run_all(threads)
    for number, prompt in enumerate(prompts):
        assert torch.equal(outputs[number], target.generate(**prompt, **settings))


def counts(head):
    run = head.last_run
    return run.rounds, run.tokens, run.accepted


def test_two_threads_on_one_head_leave_whole_statistics(target, trained_head):
    """last_run is replaced at once: never a mixture of two runs."""
    settings = dict(assistant_model=trained_head, max_new_tokens=60, eos_token_id=None)
    calls = [left_padded(target, [length]) | settings for length in (7, 12)]
    alone = []
    for call in calls:
        target.generate(**call)
        alone.append(counts(trained_head))
    for _ in range(3):
        run_all([threading.Thread(target=target.generate, kwargs=call) for call in calls])
        assert counts(trained_head) in alone


class Recorder(TextStreamer):
    """Keeps what arrives: lists of tokens, and "end"."""

    def __init__(self, tokenizer):
        super().__init__(tokenizer)
        self.parts = []

    def put(self, value):
        self.parts.append(value.flatten().tolist())

    def end(self):
        self.parts.append("end")


def test_streamed_tokens_arrive_each_round_in_order_and_never_past_the_end(
    target, trained_head, tokenizer
):
    streamer = Recorder(tokenizer)
    out = target.generate(
        **left_padded(target, [7]),
        assistant_model=trained_head,
        max_new_tokens=80,
        eos_token_id=[5],
        streamer=streamer,
    )
    *parts, end = streamer.parts
    assert end == "end"
    assert sum(parts, []) == out[0].tolist()
    # the prompt, the first token, then a part a round
    assert len(parts) == 2 + trained_head.last_run.rounds


class RoundRecorder(RoundStreamer):
    """Keeps every round, and the tokens that follow it."""

    def __init__(self):
        self.rounds = []
        self.tokens = []

    def put_round(self, tree, verdict):
        self.rounds.append((tree, verdict))

    def put(self, value):
        self.tokens.append((len(self.rounds), value.flatten().tolist()))

    def end(self):
        pass


def record_rounds(target, head, **settings):
    streamer = RoundRecorder()
    prompt = left_padded(target, [7])
    target.generate(
        **prompt, max_new_tokens=60, streamer=streamer, assistant_model=head, **settings
    )
    return streamer


def test_a_round_is_shown_with_its_tree_before_its_tokens(target, trained_head):
    shown = record_rounds(target, trained_head, eos_token_id=None)
    run = trained_head.last_run
    assert len(shown.rounds) == run.rounds > 5
    before_rounds, in_rounds = shown.tokens[:2], shown.tokens[2:]
    assert [number for number, _ in before_rounds] == [0, 0]
    for (number, tokens), (tree, verdict) in zip(in_rounds, shown.rounds, strict=True):
        assert shown.rounds[number - 1] == (tree, verdict)
        assert verdict.emitted == tokens
        drafted = [int(tree.tokens[0, node]) for node in verdict.path[1:]]
        assert drafted == tokens[: len(drafted)]
    accepted = sum(verdict.accepted for _, verdict in shown.rounds)
    assert accepted == sum(run.accepted) > 0


def test_the_target_alone_shows_no_rounds(target):
    shown = record_rounds(target, None, eos_token_id=None)
    assert shown.rounds == []
    assert len(sum([tokens for _, tokens in shown.tokens], [])) == 7 + 60


def start_streaming(target, head, streamer):
    """A thread that generates 50 tokens into the streamer."""
    settings = dict(
        left_padded(target, [7]),
        assistant_model=head,
        max_new_tokens=50,
        eos_token_id=None,
        streamer=streamer,
    )
    thread = threading.Thread(target=target.generate, kwargs=settings)
    thread.start()
    return thread


def plain_words(target, tokenizer):
    """The words of the same 50 tokens from the target alone."""
    plain = target.generate(**left_padded(target, [7]), max_new_tokens=50, eos_token_id=None)
    return tokenizer.decode(plain[0, 7:]).split()


def test_text_iterator_streamer_gives_the_whole_text(target, trained_head, tokenizer):
    streamer = TextIteratorStreamer(tokenizer, skip_prompt=True)
    thread = start_streaming(target, trained_head, streamer)
    text = "".join(streamer)
    thread.join()
    assert text.split() == plain_words(target, tokenizer)


def test_async_text_iterator_streamer_gives_the_whole_text(target, trained_head, tokenizer):
    async def collect():
        streamer = AsyncTextIteratorStreamer(tokenizer, skip_prompt=True)
        thread = start_streaming(target, trained_head, streamer)
        parts = [part async for part in streamer]
        thread.join()
        return parts

    parts = asyncio.run(collect())
    assert len(parts) > 5
    assert "".join(parts).split() == plain_words(target, tokenizer)
