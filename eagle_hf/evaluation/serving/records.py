"""One request, as it was measured."""

from dataclasses import asdict, dataclass, field
from typing import Any

INTERRUPTED = "interrupted"


@dataclass
class RequestRecord:
    """A request and what came of it.

    Attributes:
        prompt: its id.
        category: of the prompt.
        sent: seconds after the run began.
        ended: the same, when the answer was whole or failed.
        ttft: seconds from sending to the first token; None without one.
        e2e: seconds from sending to the last token; None unless the answer is whole.
        tokens: of the answer; None where the server does not count.
        arrivals: (seconds after sending, tokens) of each chunk; empty where that is not known.
        drafts: what the server says of its drafts, under its own names.
        build: what the server calls its build.
        failure: why there is no whole answer, in words that are counted; "" where there is one.
        detail: of the failure.
        broken: (seconds after sending, bytes) of each line of a stream that failed.
    """

    prompt: str
    category: str
    sent: float
    ended: float = 0.0
    ttft: float | None = None
    e2e: float | None = None
    tokens: int | None = None
    arrivals: list[tuple[float, int]] = field(default_factory=list)
    drafts: dict[str, Any] | None = None
    build: str = ""
    failure: str = ""
    detail: str = ""
    broken: list[tuple[float, int]] = field(default_factory=list)

    @property
    def is_finished(self) -> bool:
        """Whether the answer is whole."""
        return not self.failure

    @property
    def tpot(self) -> float | None:
        """Seconds per token after the first; None where there is none, or none was counted."""
        if self.e2e is None or self.ttft is None or self.tokens is None or self.tokens < 2:
            return None
        return (self.e2e - self.ttft) / (self.tokens - 1)

    @property
    def gaps(self) -> list[float]:
        """Seconds before each token that did not come with the first chunk.

        A chunk of k tokens is k gaps, each of a k-th of the time since the chunk before.
        """
        gaps = []
        for (before, _), (seconds, tokens) in zip(self.arrivals, self.arrivals[1:], strict=False):
            gaps += [(seconds - before) / tokens] * tokens
        return gaps

    def to_json(self) -> dict[str, Any]:
        """The record as a line of JSON holds it."""
        return asdict(self)
