"""What a server says: its models and answers, checked and read.

Answers are asked whole and not as a stream. So a cut answer is no JSON, and cannot pass for a
finished one. SGLang gives token ids in no other way.
"""

import json
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from eagle_hf.data.answers.errors import (
    KeyRefusedError,
    RefusedPromptError,
    TryAgainError,
    WrongServerError,
)
from eagle_hf.data.answers.turns import FinishedTurn, TurnRequest
from eagle_hf.data.examples.turns import MISSING, SERVED
from eagle_hf.data.reading.row_values import is_encodable
from eagle_hf.data.templates.messages import REASONING_NAMES

# vLLM's name, that of SGLang and transformers, and that of some chat templates.
# Any other reason means that the server gave up, or filtered, and the answer is not whole.
FINISH_REASONS = ("stop", "length", "tool_calls")
# Too slow, in conflict with another request, too many requests. Other 4xx repeat themselves.
RETRIED_STATUSES = (408, 409, 429)
# No right to ask, no such model or address: the server would say so to every prompt.
WRONG_SERVER_STATUSES = (401, 403, 404, 405)
KEY_STATUSES = (401, 403)
LARGEST_VOCABULARY = 2**31  # tokenizers take no larger ids
SHOWN = 200  # characters of an answer in an error


class ServedModel(NamedTuple):
    """A model that a server lists.

    Attributes:
        name: under which it is asked for.
        engine: what serves it, such as "vllm"; empty where the server does not say.
    """

    name: str
    engine: str


def check_status(status: int, raw: bytes, retry_after: str | None) -> None:
    """Refuse an answer by its HTTP status.

    Args:
        status: of HTTP.
        raw: the answer's body, which says why.
        retry_after: the header of that name.

    Raises:
        TryAgainError: the server is too busy, or has failed.
        RefusedPromptError: it does not take this prompt.
        KeyRefusedError: it wants a key, or another one.
        WrongServerError: it answers no prompt.
    """
    if status == 200:
        return
    if status in KEY_STATUSES:
        raise KeyRefusedError(f"HTTP {status}: {_beginning(raw)}")
    is_redirect = 300 <= status < 400
    if is_redirect or status in WRONG_SERVER_STATUSES:
        raise WrongServerError(f"HTTP {status}: {_beginning(raw)}")
    if status in RETRIED_STATUSES or status >= 500:
        raise TryAgainError(f"HTTP {status}: {_beginning(raw)}", _seconds(retry_after))
    raise RefusedPromptError(f"HTTP {status}: {_beginning(raw)}")


def parse_json(raw: bytes) -> dict[str, Any]:
    """Read the JSON object of an answer.

    Args:
        raw: the body.

    Returns:
        The object.

    Raises:
        TryAgainError: it is no JSON object: cut, or a page for people.
    """
    try:
        payload = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise _broken(f"no JSON ({error}): {_beginning(raw)}") from error
    if not isinstance(payload, dict):
        raise _broken(f"a {type(payload).__name__} and no JSON object: {_beginning(raw)}")
    return payload


def parse_models(payload: Mapping[str, Any]) -> list[ServedModel]:
    """Read the answer to /v1/models.

    Args:
        payload: its JSON object.

    Returns:
        The models that the server lists.

    Raises:
        TryAgainError: it is no list of models.
    """
    rows = payload.get("data")
    if not isinstance(rows, list):
        raise _broken(f"no list of models: {_beginning(json.dumps(payload).encode())}")
    models = []
    for row in rows:
        if isinstance(row, Mapping) and isinstance(row.get("id"), str):
            models.append(ServedModel(row["id"], str(row.get("owned_by") or "")))
    return models


def parse_answer(payload: Mapping[str, Any], request: TurnRequest, model: str) -> FinishedTurn:
    """Read the answer to a chat completion.

    Args:
        payload: its JSON object.
        request: the turn that was asked.
        model: the name that was asked for.

    Returns:
        The finished turn. Ids that the server does not give are MISSING.

    Raises:
        TryAgainError: the answer is not whole.
        WrongServerError: another model answered.
    """
    choice = _only_choice(payload)
    _check_model(payload.get("model"), model)
    finish_reason = choice.get("finish_reason")
    if finish_reason not in FINISH_REASONS:
        raise _broken(f"finish_reason {finish_reason!r}, not one of {FINISH_REASONS}")
    message = choice.get("message")
    if not isinstance(message, Mapping):
        raise _broken(f"a choice without a message: {str(choice):.{SHOWN}}")
    prompt_ids = _ids(choice.get("prompt_token_ids") or payload.get("prompt_token_ids"))
    response_ids = _ids(choice.get("token_ids") or ids_of_logprobs(choice.get("logprobs")))
    usage = payload.get("usage")
    usage = usage if isinstance(usage, Mapping) else {}
    return FinishedTurn(
        id=request.id,
        turn=request.turn,
        text=_text(message.get("content"), "content"),
        reasoning=_reasoning(message),
        finish_reason=finish_reason,
        prompt_ids=prompt_ids,
        prompt_ids_from=SERVED if prompt_ids else MISSING,
        response_ids=response_ids,
        response_ids_from=SERVED if response_ids else MISSING,
        prompt_tokens=_count(usage.get("prompt_tokens")),
        sampled_tokens=_count(usage.get("completion_tokens")),
        model=model,
        tool_calls=_tool_calls(message.get("tool_calls")),
    )


def _check_model(answered: object, asked: str) -> None:
    """Refuse the answer of another model. transformers adds the revision: "name@main"."""
    is_asked = answered == asked or str(answered).startswith(f"{asked}@")
    if not is_asked:
        raise WrongServerError(
            f"the model {answered!r} answered and {asked!r} was asked for; "
            "only the target's own answers teach its head"
        )


def _only_choice(payload: Mapping[str, Any]) -> Mapping[str, Any]:
    """The one choice of an answer."""
    choices = payload.get("choices")
    is_one = isinstance(choices, list) and len(choices) == 1 and isinstance(choices[0], Mapping)
    if not is_one:
        raise _broken(f"no single choice: {_beginning(json.dumps(payload).encode())}")
    return choices[0]


def _reasoning(message: Mapping[str, Any]) -> str:
    """The reasoning under the first of its names that holds some."""
    for name in REASONING_NAMES:
        text = _text(message.get(name), name)
        if text:
            return text
    return ""


def _text(value: object, name: str) -> str:
    """A text of a message, "" for None; half a surrogate is no text that a file can hold."""
    if value is None:
        return ""
    if not isinstance(value, str):
        raise _broken(f"{name} of type {type(value).__name__} and not text")
    if not is_encodable(value):
        raise _broken(f"{name} with half a surrogate")
    return value


def _tool_calls(value: object) -> list[dict[str, Any]] | None:
    """The tool calls of a message as the server gave them; None where it makes none."""
    if not value:
        return None
    if not isinstance(value, list):
        raise _broken(f"tool_calls of type {type(value).__name__} and no list")
    for call in value:
        function = call.get("function") if isinstance(call, Mapping) else None
        if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
            raise _broken(f"a tool call without a name: {str(call):.{SHOWN}}")
    if not is_encodable(json.dumps(value, ensure_ascii=False)):
        raise _broken("tool_calls with half a surrogate")
    return value


def _ids(value: object) -> list[int] | None:
    """Token ids; None where there are none."""
    if not value:
        return None
    if not isinstance(value, list) or not all(_is_id(token) for token in value):
        raise _broken(f"token ids that are no list of ids: {str(value):.{SHOWN}}")
    return value


def _is_id(token: object) -> bool:
    """Whether a value may be a token id."""
    return type(token) is int and 0 <= token < LARGEST_VOCABULARY


def ids_of_logprobs(logprobs: object) -> list[int] | None:
    """The ids that llama.cpp writes beside log-probabilities; other servers write none there."""
    content = logprobs.get("content") if isinstance(logprobs, Mapping) else None
    if not isinstance(content, list):
        return None
    ids = []
    for token in content:
        if not isinstance(token, Mapping) or "id" not in token:
            return None
        ids.append(token["id"])
    return ids


def _count(value: object) -> int | None:
    """A number of tokens; None where the server gives none."""
    return value if type(value) is int else None


def _seconds(retry_after: str | None) -> float | None:
    """A Retry-After header in seconds; None where there is none, or where it is a date."""
    try:
        seconds = float(retry_after or "")
    except ValueError:
        return None
    return max(seconds, 0.0) if math.isfinite(seconds) else None


def _broken(what: str) -> TryAgainError:
    """An answer that another attempt may give whole."""
    return TryAgainError(f"the answer is broken: {what}")


def _beginning(raw: bytes) -> str:
    """The first characters of a body, on one line."""
    return " ".join(raw[: 4 * SHOWN].decode("utf-8", "replace").split())[:SHOWN]
