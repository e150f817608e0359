"""Conversations of a target with itself, as fast as a GPU makes them.

User turns are the target's own (Magpie, a topic each), or bundled ones of the training sets. Every
answer is continued by another user turn of the target's own, and answered again, until the text is
full. Prompts that an evaluation suite holds are left out.
"""

import random
import time
from collections import Counter, deque
from collections.abc import Container, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from slots import Slots, Text

from eagle_hf.data import ContaminationRule, eos_token_ids, read_prompts
from eagle_hf.data.prompts.bundled_sets import bundled_prompts
from eagle_hf.data.prompts.magpie import TOPIC_HINT, normalize, reject_reason
from eagle_hf.data.prompts.topics import TOPIC_SEEDS
from eagle_hf.data.rows import Message, Prompt
from eagle_hf.data.templates.template import decode_text, render_text, user_turn_prefix

SIZE = 1024  # tokens of the longest conversation
USER_TURN = 160  # tokens of the longest user turn
ANSWER = 512  # tokens of the longest answer
LEAST_ROOM = 128  # tokens without which no other turn begins
ANSWERED = "AN-ANSWER"  # stands where one is
ASKED = "A-QUESTION"
SAMPLED = 0.25  # share of the answers that are sampled, not greedy
TEMPERATURE = 0.8  # of these
FOREIGN_HINT = "You are a helpful assistant. The user asks a question in {language}."
LANGUAGES = ("French", "German", "Spanish", "Italian", "Portuguese")
BUNDLED = ("train_code_codeio", "train_math_reasoning_gym")
BUNDLED_TEMPERATURES = (0.0, TEMPERATURE)  # of the answers to every bundled prompt
BUNDLED_TOGETHER = 18  # of them, beside one user turn of every topic


@dataclass
class Talk:
    """A conversation that grows.

    Attributes:
        ids: its tokens.
        answers: (first token, behind the last) of every answer.
        source: who wrote its first user turn.
        user_writes: whether the next tokens are a user turn.
        temperature: of its answers.
    """

    ids: list[int]
    source: str
    user_writes: bool = False
    temperature: float = 0.0
    answers: list[tuple[int, int]] = field(default_factory=list)

    def mask(self) -> list[bool]:
        """True for the tokens of answers."""
        is_answer = [False] * len(self.ids)
        for start, end in self.answers:
            is_answer[start:end] = [True] * (end - start)
        return is_answer


class Talks:
    """Makes conversations.

    Args:
        target: the target, on its device.
        tokenizer: its tokenizer.
        rows: texts that are continued at once.
        size: tokens of the longest conversation.
        seed: of topics and temperatures.
    """

    def __init__(self, target: Any, tokenizer: Any, rows: int, size: int = SIZE, seed: int = 0):
        self.tokenizer = tokenizer
        self.stop = sorted(eos_token_ids(target, tokenizer))
        self.slots = Slots(target, rows, size, self.stop)
        self.rows = rows
        self.size = size
        self.random = random.Random(seed)
        self.contaminated = ContaminationRule()
        self.known: set[str] = set()
        self.refused: Counter[str] = Counter()
        self.queue: deque[Text] = deque()
        self.prefixes = self.topic_prefixes()
        self.bundled = self.bundled_talks()
        self.between, self.before_answer = joints(tokenizer, self.stop)

    def topic_prefixes(self) -> list[list[int]]:
        """Tokens of a text that stops where a user writes, by what the system message says."""
        topics = [topic for own in TOPIC_SEEDS.values() for topic in own]
        systems = [None, *(TOPIC_HINT.format(topic=topic) for topic in topics)]
        systems += [FOREIGN_HINT.format(language=language) for language in LANGUAGES]
        return [self.encode(user_turn_prefix(self.tokenizer, system)) for system in systems]

    def encode(self, text: str) -> list[int]:
        """Tokens of rendered text."""
        return self.tokenizer.encode(text, add_special_tokens=False)

    def run(self, seconds: float) -> Iterator[Talk]:
        """Conversations that have ended, until the time is over.

        What is still being written then is cut off: its whole turns are yielded too.
        """
        ends = time.perf_counter() + seconds
        while len(self.queue) < 2 * self.rows:
            self.ask_more()
        unfinished: dict[int, Talk] = {}
        for text, new in self.slots.run(self.queue):
            talk = text.note
            if self.advance(talk, new):
                unfinished.pop(id(talk), None)
                yield talk
            elif talk.answers:
                unfinished[id(talk)] = talk
            while len(self.queue) < self.rows:
                self.ask_more()
            if time.perf_counter() > ends:
                break
        for talk in unfinished.values():
            talk.ids = talk.ids[: talk.answers[-1][1]]
            yield talk

    def bundled_talks(self) -> list[Talk]:
        """The prompts of the bundled training sets, in random order."""
        talks = []
        for name in BUNDLED:
            prompts, _ = read_prompts(bundled_prompts(name))
            for prompt in prompts:
                ids = self.asked(prompt["turns"][0])
                for temperature in BUNDLED_TEMPERATURES if ids else ():
                    talks.append(Talk(ids, prompt["category"], temperature=temperature))
        self.random.shuffle(talks)
        return talks

    def ask_more(self) -> None:
        """Queue user turns that the target writes, one of every topic, and some bundled ones."""
        for talk in self.bundled[:BUNDLED_TOGETHER]:
            self.queue.append(self.answer_of(talk))
        del self.bundled[:BUNDLED_TOGETHER]
        for prefix in self.prefixes:
            talk = Talk(prefix, "magpie", user_writes=True)
            self.queue.append(Text(prefix, len(prefix) + USER_TURN, 1.0, talk))

    def asked(self, turn: str) -> list[int]:
        """Tokens of a conversation that begins with a user turn; none where it is too long."""
        talk: list[Message] = [{"role": "user", "content": turn}]
        ids = self.encode(render_text(self.tokenizer, talk, add_generation_prompt=True))
        if len(ids) + LEAST_ROOM <= self.size:
            return ids
        self.refused["too long"] += 1
        return []

    def answer_of(self, talk: Talk) -> Text:
        """The next answer of a conversation, still to be written."""
        talk.user_writes = False
        return Text(talk.ids, min(len(talk.ids) + ANSWER, self.size), talk.temperature, talk)

    def advance(self, talk: Talk, new: list[int]) -> bool:
        """Take what was written into a conversation; whether it is over."""
        has_ended = new[-1] in self.stop
        if talk.user_writes and not talk.answers:
            self.begin(new, has_ended)
            return False
        start = len(talk.ids)
        if talk.user_writes:
            if not has_ended or self.objection(decode_text(self.tokenizer, new), ()):
                talk.ids = talk.ids[: talk.answers[-1][1]]
                return True
            talk.ids = talk.ids + new + self.before_answer
            self.queue.appendleft(self.answer_of(talk))
            return False
        talk.ids = talk.ids + new
        talk.answers.append((start, len(talk.ids)))
        if not has_ended or len(talk.ids) + len(self.between) + LEAST_ROOM > self.size:
            return True
        talk.ids = talk.ids + self.between
        talk.user_writes = True
        limit = min(len(talk.ids) + USER_TURN, self.size - LEAST_ROOM // 2)
        self.queue.appendleft(Text(talk.ids, limit, 1.0, talk))
        return False

    def begin(self, new: list[int], has_ended: bool) -> None:
        """Ask the target its own user turn, where it is a fit one."""
        text = decode_text(self.tokenizer, new).strip()
        reason = self.objection(text, self.known) if has_ended else "no end of turn"
        if reason:
            self.refused[reason] += 1
            return
        self.known.add(normalize(text))
        ids = self.asked(text)
        if ids:
            temperature = TEMPERATURE if self.random.random() < SAMPLED else 0.0
            talk = Talk(ids, "magpie", temperature=temperature)
            self.queue.appendleft(self.answer_of(talk))

    def objection(self, turn: str, known: Container[str]) -> str | None:
        """Why a user turn is left out; None where it is not."""
        reason = reject_reason(turn, known)
        prompt = Prompt(id="", turns=[turn], category="chat", source="magpie")
        if reason is None and self.contaminated.objection(prompt):
            reason = "in an evaluation suite"
        return reason


def joints(tokenizer: Any, stop: list[int]) -> tuple[list[int], list[int]]:
    """What stands between an answer's end and a user's word, and between that and an answer."""
    talk: list[Message] = [
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": ANSWERED},
        {"role": "user", "content": ASKED},
    ]
    text = render_text(tokenizer, talk, add_generation_prompt=True)
    ends = tokenizer.convert_ids_to_tokens(stop)
    _, behind_answer = text.split(ANSWERED)
    _, behind_question = text.split(ASKED)
    end = next(end for end in ends if behind_answer.lstrip().startswith(end))
    between, _ = behind_answer.split(end, 1)[1].split(ASKED)
    rest = behind_question.split(end, 1)[1]
    encode = partial(tokenizer.encode, add_special_tokens=False)
    return encode(between), encode(rest)
