"""One turn of a conversation: asked, finished or failed; and the interface of what answers it.

Turn t can only be asked once turn t - 1 is answered, because its prompt holds that answer.
"""

from collections.abc import AsyncGenerator, Iterable
from dataclasses import dataclass
from typing import Any, Protocol

from eagle_hf.data.rows import Message, Prompt
from eagle_hf.data.templates.arguments import TemplateArguments


@dataclass(frozen=True)
class TurnRequest:
    """One user turn with everything before it.

    Attributes:
        id: of the prompt.
        turn: number of the user turn, from 0.
        messages: the conversation up to and including that turn.
        tools: of the prompt, as it has them.
        chat_template_kwargs: of the prompt, as it has them.
    """

    id: str
    turn: int
    messages: list[Message]
    tools: Any = None
    chat_template_kwargs: Any = None

    def arguments(self, run: TemplateArguments) -> TemplateArguments:
        """What the template is given for this turn.

        Args:
            run: arguments of the whole run; the prompt's own win.

        Raises:
            ValueError: the prompt's are not what they should be.
        """
        own = {"tools": self.tools, "chat_template_kwargs": self.chat_template_kwargs}
        return run.for_row(own)


@dataclass(frozen=True)
class FinishedTurn:
    """An answer, whole.

    Attributes:
        id: of the prompt.
        turn: number of the user turn, from 0.
        text: the answer as people read it, without its reasoning.
        reasoning: what the target thought first; empty where it did not.
        finish_reason: "stop" or "tool_calls" where the target ended its turn, "length" where it
            was cut.
        prompt_ids: token ids of the prompt as served; None where they are missing.
        prompt_ids_from: SERVED, RECOVERED or MISSING.
        response_ids: token ids of the answer as sampled, with its end-of-turn token if that was
            sampled; None where they are missing.
        response_ids_from: SERVED, RECOVERED or MISSING.
        prompt_tokens: tokens of the prompt as the server counted them; None where it did not.
        sampled_tokens: tokens of the answer as the server counted them; None where it did not.
        model: what the answerer calls the target.
        tool_calls: that the answer makes, as OpenAI's API has them, arguments as they were given;
            None where it makes none.
    """

    id: str
    turn: int
    text: str
    reasoning: str
    finish_reason: str
    prompt_ids: list[int] | None
    prompt_ids_from: str
    response_ids: list[int] | None
    response_ids_from: str
    prompt_tokens: int | None
    sampled_tokens: int | None
    model: str
    tool_calls: list[dict[str, Any]] | None = None

    @property
    def is_empty(self) -> bool:
        """Whether nothing was said: there is nothing to learn."""
        has_text = bool(self.text.strip() or self.reasoning.strip())
        return not has_text and not self.tool_calls

    def message(self) -> Message:
        """The answer as people and chat templates read it."""
        message: Message = {"role": "assistant", "content": self.text}
        if self.reasoning:
            message["reasoning_content"] = self.reasoning
        if self.tool_calls:
            message["tool_calls"] = self.tool_calls
        return message


@dataclass(frozen=True)
class FailedTurn:
    """A turn to which no answer came.

    Attributes:
        id: of the prompt.
        turn: number of the user turn, from 0.
        reason: why, as a sentence for a terminal.
        is_final: whether asking again would come to the same: the prompt is too long, say.
    """

    id: str
    turn: int
    reason: str
    is_final: bool = False


class OpenConversation:
    """A prompt whose turns are being answered.

    Attributes:
        prompt: the user turns.
        position: of the prompt among all prompts, from 0. Batches in this process depend on it.
        messages: what has been said so far.
        turn: number of the next user turn.
        ended_early: why no further turn can be asked although there are some, or why the last
            answer is worth nothing; None while all is well.
    """

    def __init__(self, prompt: Prompt, answers: Iterable[FinishedTurn] = (), position: int = 0):
        self.prompt = prompt
        self.position = position
        self.messages: list[Message] = []
        self.turn = 0
        self.ended_early: str | None = None
        system = prompt.get("system")
        if system:
            self.messages.append({"role": "system", "content": system})
        for answer in answers:
            self.hear(answer)

    @property
    def is_finished(self) -> bool:
        """Whether no turn is left to ask."""
        return self.ended_early is not None or self.turn == len(self.prompt["turns"])

    def request(self) -> TurnRequest:
        """The next turn to ask."""
        question: Message = {"role": "user", "content": self.prompt["turns"][self.turn]}
        return TurnRequest(
            id=self.prompt["id"],
            turn=self.turn,
            messages=[*self.messages, question],
            tools=self.prompt.get("tools"),
            chat_template_kwargs=self.prompt.get("chat_template_kwargs"),
        )

    def hear(self, answer: FinishedTurn) -> None:
        """Add the answer to the turn that `request` gave.

        The next prompt shows the answer's text alone: chats show the target its history so.
        """
        assert answer.turn == self.turn, "turns are answered in their order"
        self.messages = self.request().messages
        self.messages.append({"role": "assistant", "content": answer.text})
        self.turn += 1
        self.ended_early = early_end(answer, len(self.prompt["turns"]))


def early_end(answer: FinishedTurn, turns: int) -> str | None:
    """Why a conversation ends with an answer that is not its last, or is worth nothing.

    Args:
        answer: to any of its turns.
        turns: how many user turns it has.

    Returns:
        A sentence for a terminal; None where the conversation goes on, or is complete.
    """
    number = answer.turn + 1
    if answer.is_empty:
        return f"the response to turn {number} has zero tokens of text"
    if number == turns:
        return None
    if answer.tool_calls:
        return (
            f"the response to turn {number} calls tools, and nobody answers for them before turn "
            f"{number + 1}; ask one turn"
        )
    if not answer.text.strip():
        return (
            f"the response to turn {number} ended inside its reasoning, so turn {number + 1} has "
            "no answer before it; raise max_new_tokens"
        )
    return None


class Answerer(Protocol):
    """Answers conversations: on servers, in this process, or on a cluster."""

    @property
    def model(self) -> str:
        """What names the target in the turns; answers of two targets do not share a store."""
        ...

    def answer(
        self, conversations: Iterable[OpenConversation]
    ) -> AsyncGenerator[FinishedTurn | FailedTurn]:
        """Answer every turn that is left.

        Args:
            conversations: taken one after the other, as they are needed. Each is told its answers
                (`OpenConversation.hear`).

        Yields:
            Each turn as soon as it is finished, the turns of one conversation in their order. A
            failed turn is the last of its conversation.
        """
        ...
