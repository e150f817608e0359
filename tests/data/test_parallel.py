"""Conversations tokenised in several processes, and as a stream."""

import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from chat_templates import ask, end_ids, family_tokenizer, say

from eagle_hf.data import prepare_examples, stream_examples, tokenize_conversations
from eagle_hf.data.examples.parallel import ROWS_AT_ONCE, WAITING

ROWS = 3 * ROWS_AT_ONCE + 5


def rows(count: int = ROWS) -> list[Any]:
    """Conversations of one to three turns; every ninth row is bad."""
    made: list[Any] = []
    for number in range(count):
        messages = []
        for turn in range(1 + number % 3):
            messages += [ask(f"{number}, {turn}?"), say(f"yes, {number * turn}.")]
        bad = {"messages": messages[:-1]} if number % 2 else 3
        made.append(bad if number % 9 == 8 else {"id": f"c{number}", "messages": messages})
    return made


@pytest.mark.parametrize("name", ["qwen2_5", "qwen3"])
def test_several_processes_give_what_one_gives_in_order(name):
    tokenizer = family_tokenizer(name)
    stop = end_ids(name, tokenizer)
    alone = tokenize_conversations(rows(), tokenizer, eos_token_ids=stop, max_length=None)
    together = tokenize_conversations(
        rows(), tokenizer, eos_token_ids=stop, max_length=None, num_proc=2
    )
    assert together == alone
    examples, skipped = alone
    assert len(skipped) == ROWS // 9
    assert len(examples) >= ROWS - len(skipped)


@pytest.mark.parametrize("num_proc", [None, 2])
def test_a_stream_reads_no_more_rows_than_are_at_work(target, tokenizer, num_proc):
    read = 0

    def counted():
        nonlocal read
        for row in rows(40 * ROWS_AT_ONCE):
            read += 1
            yield row

    skipped: list[Any] = []
    stream = stream_examples(target, tokenizer, counted(), skipped=skipped, num_proc=num_proc)
    assert next(stream)["id"] == "c0"
    in_flight = 1 if num_proc is None else (WAITING * num_proc + 1) * ROWS_AT_ONCE
    assert read <= in_flight + 1
    rest = list(stream)
    assert read == 40 * ROWS_AT_ONCE
    assert len(rest) + 1 + len(skipped) == read


def test_a_stream_gives_what_prepare_examples_gives(target, tokenizer):
    examples, skipped = prepare_examples(target, tokenizer, rows(), num_proc=2)
    streamed_skipped: list[Any] = []
    streamed = stream_examples(target, tokenizer, rows(), skipped=streamed_skipped)
    assert list(streamed) == examples
    assert streamed_skipped == skipped


def test_a_stream_without_a_usable_row_says_so_behind_its_last(target, tokenizer):
    stream = stream_examples(target, tokenizer, iter([3, 4]), skipped=[], num_proc=2)
    with pytest.raises(ValueError, match="none of 2 conversations is usable"):
        next(stream)


def test_what_no_number_of_processes_can_do_is_refused_before_a_row_is_read(target, tokenizer):
    def unread():
        yield {"messages": [ask("a"), say("b")]}
        raise AssertionError("the rows were read")

    with pytest.raises(ValueError, match="num_proc is 0; give 1 or more"):
        stream_examples(target, tokenizer, unread(), skipped=[], num_proc=0)


MEASURED = """
import json, sys
from pathlib import Path
from tiny import tiny_target
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast
from eagle_hf.data import load_conversations, stream_examples

words = {word: number for number, word in enumerate(sys.argv[1].split())}
backend = Tokenizer(models.WordLevel(words, unk_token="the"))
backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
backend.add_special_tokens(["<start>", "<end>"])
tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<end>")
tokenizer.chat_template = (
    "{% for m in messages %}<start>{{ m.role }} {{ m.content }}<end>{% endfor %}"
    "{% if add_generation_prompt %}<start>assistant {% endif %}"
)


def peak():
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) / 1024


target = tiny_target()
target.generation_config.eos_token_id = None  # a word here
counts = []
for name in sys.argv[2:]:
    rows = load_conversations(name, streaming=True)
    skipped = []
    stream = stream_examples(
        target, tokenizer, rows, skipped=skipped, max_length=10**6, num_proc=2
    )
    counts.append([sum(1 for _ in stream), len(skipped), peak()])
print(json.dumps(counts))
"""
WORDS = "the user assistant again and quick brown fox jumps over lazy dogs"


def write_conversations(path: Path, megabytes: int) -> int:
    """Write conversations of two turns, and say how many."""
    generator = random.Random(0)
    number = 0
    with open(path, "w") as file:
        while file.tell() < megabytes * 2**20:
            messages = []
            for _ in range(2):
                answer = " ".join(generator.choices(WORDS.split(), k=600))
                messages += [ask("quick fox again"), say(answer)]
            file.write(json.dumps({"id": str(number), "messages": messages}) + "\n")
            number += 1
    return number


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peaks are read from /proc")
def test_memory_does_not_grow_with_the_file(tmp_path):
    files = [tmp_path / "small.jsonl", tmp_path / "large.jsonl"]
    written = [write_conversations(files[0], 10), write_conversations(files[1], 150)]
    tests = Path(__file__).parents[1]
    ran = subprocess.run(
        [sys.executable, "-c", MEASURED, WORDS, *map(str, files)],
        capture_output=True,
        text=True,
        check=True,
        env={
            **os.environ,
            "HF_HOME": str(tmp_path / "cache"),
            "PYTHONPATH": os.pathsep.join([str(tests), *sys.path]),
        },
    )
    small, large = json.loads(ran.stdout.splitlines()[-1])
    assert [small[:2], large[:2]] == [[written[0], 0], [written[1], 0]]
    # Fifteen times the file: the peak grows by what buffers and the allocator hold, in MiB.
    assert large[2] - small[2] < 100, (small, large)
