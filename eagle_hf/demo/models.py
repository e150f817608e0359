"""The target and the head that the demo answers with, and what it is asked."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from weakref import WeakSet

import torch
from transformers import BatchEncoding, PreTrainedTokenizerBase

from eagle_hf.data.prompts.suites import first_turn_ids
from eagle_hf.data.rows import Prompt
from eagle_hf.decoding.assistants import EagleAssistant
from eagle_hf.decoding.streaming import RoundStreamer
from eagle_hf.demo.streams import StreamedCall
from eagle_hf.evaluation import open_head, open_target
from eagle_hf.evaluation.offline import sampling_at
from eagle_hf.head.modeling import Eagle3DraftHead
from eagle_hf.head.trees import TreeConfig
from eagle_hf.quickstart.story import REFERENCE
from eagle_hf.quickstart.targets import TARGET
from eagle_hf.target import context_length, execution_device

BY_MACHINE = "machine"  # the tree that this machine's measured costs choose
WARM_UP = "Say hello."
WARM_UP_TOKENS = 8
MAX_TEMPERATURE = 5.0
MAX_COUNT = 2**63 - 1


@dataclass(frozen=True)
class Question:
    """What a page sends.

    Args:
        prompt: the user's turn.
        tree: `policy:depth:top_k:nodes`, or "machine".
        temperature: 0 is greedy.
        max_new_tokens: of each answer.
        seed: of sampled answers.

    Raises:
        ValueError: a value is missing or of no use; the message is meant for the page.
    """

    prompt: str
    tree: str = BY_MACHINE
    temperature: float = 0.0
    max_new_tokens: int = 128
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.prompt.strip():
            raise ValueError("the prompt is empty; write a question or a task")
        check_count("max_new_tokens", self.max_new_tokens, least=1)
        check_count("seed", self.seed, least=0)
        temperature = self.temperature
        is_number = isinstance(temperature, (int, float))
        if not is_number or not 0 <= temperature <= MAX_TEMPERATURE:
            raise ValueError(
                f"temperature is {temperature!r}; give a number from 0 (greedy) to "
                f"{MAX_TEMPERATURE:g}"
            )
        self.tree_config()

    def tree_config(self) -> TreeConfig | None:
        """The tree that is drafted; None where the machine chooses it."""
        if self.tree == BY_MACHINE:
            return None
        return TreeConfig.parse(self.tree)


def check_count(name: str, value: Any, least: int) -> None:
    """Refuse what is no whole number from `least` to what 63 bits hold."""
    if not isinstance(value, int) or not least <= value <= MAX_COUNT:
        raise ValueError(f"{name} is {value!r}; give a whole number from {least} to {MAX_COUNT}")


class DemoModels:
    """A target and its head. All calls take turns in one thread, whoever asks.

    Args:
        target: opened, in eval mode.
        tokenizer: its tokenizer, with a chat template.
        head: opened for it.
        target_name, head_name: as the page shows them.
    """

    def __init__(
        self,
        target: Any,
        tokenizer: PreTrainedTokenizerBase,
        head: Eagle3DraftHead,
        target_name: str,
        head_name: str,
    ):
        self.target = target
        self.tokenizer = tokenizer
        self.head = head
        self.target_name = target_name
        self.head_name = head_name
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="demo")
        self._calls: WeakSet[StreamedCall] = WeakSet()

    @classmethod
    def open(
        cls,
        target: str = TARGET,
        head: str | None = None,
        *,
        adapter: str | None = None,
        tokenizer: str | None = None,
        dtype: str = "auto",
    ) -> "DemoModels":
        """Open a target and a head.

        Args:
            target: hub id, folder, `.gguf` file, or "smollm2".
            head: folder or hub id. Default, for "smollm2" only: the head of this project.
            adapter, tokenizer, dtype: as in `load_target`.

        Raises:
            ValueError, OSError: one of them is missing or cannot be opened, or they do not fit.
        """
        source = find_head(target, head)
        opened, own_tokenizer = open_target(target, adapter, tokenizer=tokenizer, dtype=dtype)
        opened_head = open_head(source, opened)
        EagleAssistant(opened_head).check(opened)
        return cls(opened, own_tokenizer, opened_head, target, Path(source).name)

    def warm_up(self) -> None:
        """Answer briefly in both ways: first calls pay for allocations and for measured costs."""
        question = Question(WARM_UP, max_new_tokens=WARM_UP_TOKENS)
        inputs = self.inputs(question)
        for drafts in (False, True):
            self.answer(inputs, question, drafts=drafts).output()

    def inputs(self, question: Question) -> BatchEncoding:
        """The prompt as `generate` takes it: `input_ids` and `attention_mask`, both [1, S].

        Raises:
            ValueError: prompt and answer are longer than the target's context.
        """
        prompt: Prompt = {
            "id": "demo",
            "turns": [question.prompt],
            "category": "chat",
            "source": "page",
        }
        inputs = first_turn_ids(self.tokenizer, prompt)
        length = inputs["input_ids"].shape[1]
        limit = context_length(self.target)
        if limit is not None and length + question.max_new_tokens > limit:
            remedy = f"at most {max(limit - question.max_new_tokens, 0)} tokens of prompt"
            raise ValueError(
                f"the prompt has {length} tokens and the answer up to {question.max_new_tokens}, "
                f"but the target's context is {limit} tokens; give {remedy}, or ask for less"
            )
        return inputs.to(execution_device(self.target))

    def answer(self, inputs: BatchEncoding, question: Question, *, drafts: bool) -> StreamedCall:
        """Begin an answer, as soon as it is its turn.

        Args:
            inputs: of `inputs(question)`.
            question: what was asked.
            drafts: whether the head drafts; without it the target answers alone.

        Returns:
            The call. Its output is that of `generate`: tokens with the head, and with scores where
            the target answers alone.
        """
        generate = partial(self._generate, inputs, question, drafts)
        call = StreamedCall(generate, self._executor)
        self._calls.add(call)
        return call

    def close(self) -> None:
        """End every call, so that the process can."""
        for call in list(self._calls):
            call.stop()
        self._executor.shutdown(wait=False, cancel_futures=True)

    def _generate(
        self, inputs: BatchEncoding, question: Question, drafts: bool, streamer: RoundStreamer
    ) -> Any:
        """One call of `generate`, greedy or sampled from the question's seed."""
        settings: dict[str, Any] = {
            "max_new_tokens": question.max_new_tokens,
            "do_sample": False,
            "pad_token_id": self.tokenizer.pad_token_id,
            "streamer": streamer,
        }
        settings |= sampling_at(question.temperature)
        if drafts:
            tree = question.tree_config()
            settings["assistant_model"] = EagleAssistant(self.head, tree)
        else:
            # the scores judge a difference
            settings |= {"return_dict_in_generate": True, "output_scores": True}
        torch.manual_seed(question.seed)
        return self.target.generate(**inputs, **settings)


def find_head(target: str, head: str | None) -> str:
    """The head to open: the one that was named, or the project's own for its own target.

    Raises:
        ValueError: no head is named, and there is none to take instead.
    """
    if head is not None:
        return head
    if target != TARGET:
        raise ValueError(
            f"the target is {target}, and no --head was given; the project's own head is for "
            f"{TARGET} alone"
        )
    if not (REFERENCE / "config.json").is_file():
        raise ValueError(
            f"there is no head in {REFERENCE}; run this in a clone of the repository, or give a "
            "--head"
        )
    return str(REFERENCE)
