"""A streamed answer, read: how many tokens each chunk brought, and when.

    data: {"choices": [{"delta": {"content": " to my world"}}], "usage": {"completion_tokens": 6}}

A server that drafts sends several tokens in one chunk, so chunks are no tokens. Counts come from

1. the running count in every chunk: `usage` (vLLM and SGLang, `continuous_usage_stats`) or
   `timings` (llama.cpp, `timings_per_token`);
2. else the total in the last chunk, where it says that every chunk with text was one token.

Where neither holds, the total alone is known, or nothing.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from eagle_hf.data.answers.draft_counts import drafts_in_answer
from eagle_hf.data.answers.errors import ServerError
from eagle_hf.data.templates.messages import REASONING_NAMES

DATA = b"data:"
DONE = b"[DONE]"
SHOWN = 200  # characters of a chunk in an error


class BrokenStreamError(ServerError):
    """A stream that is no whole answer.

    Attributes:
        kind: what is counted: the same words for every such stream.
    """

    def __init__(self, kind: str, detail: str = ""):
        super().__init__(detail or kind)
        self.kind = kind


@dataclass(frozen=True)
class Chunk:
    """A chunk of the answer itself.

    Attributes:
        seconds: since the request was sent.
        has_text: whether it brought text, reasoning or a tool call.
        is_last: whether it ends the answer.
        count: tokens of the answer so far, where the chunk says so.
    """

    seconds: float
    has_text: bool
    is_last: bool
    count: int | None


@dataclass(frozen=True)
class StreamedAnswer:
    """What a stream brought.

    Attributes:
        arrivals: (seconds since the request was sent, new tokens) of each chunk with tokens; empty
            where tokens cannot be told by chunk.
        first: seconds until the first token.
        last: seconds until the last token.
        tokens: of the answer; None where the server does not count.
        drafts: what the server says of this answer's drafts; None where it says nothing.
        build: what the server calls its build; "" where it does not say.
    """

    arrivals: list[tuple[float, int]]
    first: float
    last: float
    tokens: int | None
    drafts: dict[str, Any] | None
    build: str


def read_stream(lines: Sequence[tuple[float, bytes]]) -> StreamedAnswer:
    """Read the lines of a stream of server-sent events.

    Args:
        lines: (seconds since the request was sent, line as it came).

    Returns:
        The answer.

    Raises:
        BrokenStreamError: the server reports an error, stops before the end, sends what is no
            chunk, or ends an answer without a token.
    """
    chunks = []
    total = None
    drafts = None
    build = ""
    is_done = False
    for seconds, line in lines:
        event = _event(line)
        if event is None:
            is_done = is_done or line.removeprefix(DATA).strip() == DONE
            continue
        count = _count(event)
        total = count if count is not None else total
        drafts = drafts_in_answer(event) or drafts
        build = str(event.get("system_fingerprint") or build)
        chunk = _chunk(seconds, event, count)
        if chunk is not None:
            chunks.append(chunk)
    if not is_done and not any(chunk.is_last for chunk in chunks):
        raise BrokenStreamError("the stream broke off")
    return _answer(chunks, total, drafts, build)


def _answer(
    chunks: list[Chunk], total: int | None, drafts: dict[str, Any] | None, build: str
) -> StreamedAnswer:
    """The answer of all chunks."""
    arrivals = _arrivals(chunks, total)
    if arrivals:
        first = arrivals[0][0]
        last = arrivals[-1][0]
    else:
        times = [chunk.seconds for chunk in chunks if chunk.has_text]
        if not times:
            raise BrokenStreamError("an answer without tokens")
        first = times[0]
        last = times[-1]
    return StreamedAnswer(arrivals, first, last, total, drafts, build)


def _arrivals(chunks: list[Chunk], total: int | None) -> list[tuple[float, int]]:
    """(seconds, new tokens) of the chunks that brought some; empty where that is not known."""
    with_text = [chunk for chunk in chunks if chunk.has_text]
    if total is None:
        return []
    if with_text and all(chunk.count is not None for chunk in with_text):
        return _counted_arrivals(chunks, total)
    if total - len(with_text) not in (0, 1):
        return []
    # One token each. A token without text, the end-of-turn token, came with the last chunk.
    arrivals = [(chunk.seconds, 1) for chunk in with_text]
    if total > len(with_text):
        arrivals += [(chunk.seconds, 1) for chunk in chunks if chunk.is_last]
    return arrivals


def _counted_arrivals(chunks: list[Chunk], total: int) -> list[tuple[float, int]]:
    """The arrivals of chunks that count; what only the total counts came with the last chunk."""
    arrivals = []
    before = 0
    for chunk in chunks:
        count = total if chunk.is_last else chunk.count
        if count is not None and count > before:
            arrivals.append((chunk.seconds, count - before))
            before = count
    return arrivals


def _event(line: bytes) -> Mapping[str, Any] | None:
    """The JSON object of a line; None for the end, for comments and for empty lines."""
    if not line.startswith(DATA):
        return None
    payload = line.removeprefix(DATA).strip()
    if payload == DONE:
        return None
    try:
        event = json.loads(payload)
    except ValueError as error:
        raise BrokenStreamError("a chunk that is no JSON", _shown(payload)) from error
    if not isinstance(event, Mapping):
        raise BrokenStreamError("a chunk that is no JSON object", _shown(payload))
    if event.get("error"):
        raise BrokenStreamError("an error in the stream", _shown(payload))
    return event


def _chunk(seconds: float, event: Mapping[str, Any], count: int | None) -> Chunk | None:
    """The chunk of an event; None where it holds no part of the answer, but usage alone."""
    choices = event.get("choices")
    if not isinstance(choices, list) or not choices:
        return None
    choice = choices[0]
    if not isinstance(choice, Mapping):
        raise BrokenStreamError("a chunk without a choice", str(event)[:SHOWN])
    delta = choice.get("delta")
    parts = delta if isinstance(delta, Mapping) else {}
    names = ("content", *REASONING_NAMES, "tool_calls")
    has_text = any(parts.get(name) for name in names)
    return Chunk(seconds, has_text, bool(choice.get("finish_reason")), count)


def _count(event: Mapping[str, Any]) -> int | None:
    """Tokens of the answer so far, as an event counts them."""
    for part, name in (("usage", "completion_tokens"), ("timings", "predicted_n")):
        counts = event.get(part)
        if isinstance(counts, Mapping) and type(counts.get(name)) is int:
            return counts[name]
    return None


def _shown(payload: bytes) -> str:
    """The beginning of a chunk."""
    return payload[:SHOWN].decode("utf-8", "replace")
