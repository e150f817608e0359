"""The recipes for a GPU, on a CPU and tiny models."""

import sys
from collections import deque
from pathlib import Path

import pytest
import torch
from tiny import tiny_target, word_tokenizer

sys.path.insert(0, str(Path(__file__).parents[2] / "recipes" / "gpu"))

import answers  # noqa: E402
import reference  # noqa: E402
from learn import RECIPES, read_talks, train  # noqa: E402
from slots import Slots, Text, choose  # noqa: E402

STOP = 2
PROMPTS = [[1, 5, 9], [1, 7], [1, 3, 3, 8, 12], [4], [1, 20, 6, 11]]


def continued(target, prompt, limit):
    """What `generate` writes behind a prompt."""
    ids = torch.tensor([prompt])
    output = target.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_length=limit,
        do_sample=False,
        eos_token_id=STOP,
        pad_token_id=0,
    )
    return output[0, len(prompt) :].tolist()


def test_slots_write_what_generate_writes():
    target = tiny_target()
    expected = [continued(target, prompt, 24 + number) for number, prompt in enumerate(PROMPTS)]
    slots = Slots(target, rows=2, size=40, stop=[STOP])
    queue = deque(Text(prompt, 24 + number, note=number) for number, prompt in enumerate(PROMPTS))
    written = {text.note: new for text, new in slots.run(queue)}
    assert [written[number] for number in range(len(PROMPTS))] == expected


def test_a_token_is_greedy_or_drawn_from_the_likely_ones():
    torch.manual_seed(0)
    logits = torch.log(torch.tensor([0.6, 0.37, 0.03])).repeat(20_000, 1)
    assert (choose(logits, torch.zeros(20_000, 1)) == 0).all()
    counts = choose(logits, torch.ones(20_000, 1)).bincount(minlength=3) / 20_000
    assert counts[0].item() == pytest.approx(0.6, abs=0.02)
    cold = choose(logits, torch.full((20_000, 1), 0.5)).bincount(minlength=3) / 20_000
    assert cold[0].item() == pytest.approx(0.36 / (0.36 + 0.37**2), abs=0.02)
    assert cold[2] == 0


def test_pieces_are_joined_and_a_damaged_one_is_refused(tmp_path):
    file = tmp_path / "model.gguf"
    file.write_bytes(bytes(range(256)) * 5)
    reference.split(file, 3, tmp_path / "pieces")
    assert reference.joined(tmp_path / "pieces").read_bytes() == file.read_bytes()
    (tmp_path / "pieces" / "model.gguf.1").write_bytes(b"x")
    with pytest.raises(ValueError, match="carry them anew"):
        reference.joined(tmp_path / "pieces")


def test_what_stands_between_turns_is_the_templates():
    tokenizer = word_tokenizer()
    between, before_answer = answers.joints(tokenizer, [STOP])
    messages = [
        {"role": "user", "content": "w7"},
        {"role": "assistant", "content": "w8"},
        {"role": "user", "content": "w9"},
    ]
    whole = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    expected = tokenizer.encode(whole, add_special_tokens=False)
    first = tokenizer.encode("w3 w7 w2 w4", add_special_tokens=False)
    turn = tokenizer.encode("w9 w2", add_special_tokens=False)
    answer = tokenizer.encode("w8 w2", add_special_tokens=False)
    assert first + answer + between + turn + before_answer == expected


def test_conversations_survive_the_disk(tmp_path):
    first = answers.Talk([1, 2, 3, 4, 5], "magpie", answers=[(2, 5)])
    second = answers.Talk([9, 8, 7], "math", temperature=0.8, answers=[(1, 2)])
    reference.save_talks([first, second], tmp_path / "talks.npz")
    rows = read_talks(tmp_path / "talks.npz")
    assert [row["input_ids"].tolist() for row in rows] == [first.ids, second.ids]
    assert [row["loss_mask"].tolist() for row in rows] == [first.mask(), second.mask()]
    assert first.mask() == [False, False, True, True, True]


def test_scales_end_up_in_the_weights_of_a_head(tmp_path):
    target = tiny_target(dtype=torch.float32)
    generator = torch.Generator().manual_seed(0)
    rows = []
    for number in range(20):
        ids = torch.randint(3, 31, (24,), generator=generator)
        rows.append({"id": str(number), "input_ids": ids, "loss_mask": torch.arange(24) > 3})
    head, agreement = train(RECIPES["scaled"], target, rows, 0.03, tmp_path, 16)
    assert type(head.fc) is torch.nn.Linear
    assert head.fc.weight.shape == (32, 96)
    assert 0 < agreement <= 4
