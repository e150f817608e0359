"""The conversation that is learnt by heart: a question, and what the target alone answers."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from eagle_hf.data.prompts.suites import first_turn_ids
from eagle_hf.data.rows import Prompt
from eagle_hf.target import execution_device

# Of the first one whose answer is long enough. Facts have answers without near ties.
QUESTIONS = (
    "Explain in a few sentences why leaves are green.",
    "Tell a short story about a fox and a crow.",
    "Write down the months of the year, with one sentence about each.",
)


@dataclass(frozen=True)
class Conversation:
    """A prompt and what the target alone answers to it, as token ids."""

    prompt: list[int]
    answer: list[int]


def choose_conversation(
    target: Any, tokenizer: Any, new_tokens: int, questions: tuple[str, ...] = QUESTIONS
) -> Conversation:
    """Ask the target questions until an answer is long enough to be learnt.

    Args:
        target: The target.
        tokenizer: Its tokenizer, with a chat template.
        new_tokens: Most tokens of the answer; half of them are enough.
        questions: What is asked.

    Returns:
        The first conversation that is long enough.

    Raises:
        ValueError: None is.
    """
    lengths = []
    for question in questions:
        prompt = question_ids(tokenizer, question)
        answer = answer_greedily(target, prompt, new_tokens)
        lengths.append(len(answer))
        if len(answer) * 2 >= new_tokens:
            return Conversation(prompt, answer)
    raise ValueError(
        f"the target answers {len(questions)} questions with {lengths} tokens, and "
        f"{new_tokens // 2} are needed to learn one by heart; is this its chat template?"
    )


def question_ids(tokenizer: Any, question: str) -> list[int]:
    """A question as the chat template renders it, up to where the answer begins."""
    prompt: Prompt = {"id": "", "turns": [question], "category": "", "source": ""}
    return first_turn_ids(tokenizer, prompt)["input_ids"][0].tolist()


@torch.no_grad()
def answer_greedily(
    target: Any, prompt: Sequence[int], new_tokens: int, head: Any = None
) -> list[int]:
    """What the target answers, greedily and without penalties; alone, or with a head."""
    ids = torch.tensor([list(prompt)], device=execution_device(target))
    output = target.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=new_tokens,
        do_sample=False,
        repetition_penalty=1.0,
        assistant_model=head,
    )
    return output[0, len(prompt) :].tolist()
