"""An OpenAI-compatible server as a method: the same prompts, greedily, over HTTP.

Its speed is that of whole calls: the rows of a group are asked at once, and the clock stops when
the last answer is there. Answers are asked whole and not as a stream, as in data/answers.
"""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from eagle_hf.data.answers.asking import request_body
from eagle_hf.data.answers.draft_counts import DraftCounts, ask_counters
from eagle_hf.data.answers.errors import ServerError
from eagle_hf.data.answers.exchange import open_session, send
from eagle_hf.data.answers.listing import choose_model, models_at
from eagle_hf.data.answers.settings import base_urls
from eagle_hf.data.answers.turns import OpenConversation
from eagle_hf.data.answers.wire import parse_answer
from eagle_hf.data.optional import require
from eagle_hf.data.rows import Prompt
from eagle_hf.data.templates.arguments import TemplateArguments
from eagle_hf.decoding.stats import DecodingStats
from eagle_hf.evaluation.side_by_side.calls import GroupCall, Outcome
from eagle_hf.evaluation.side_by_side.server_counters import stats_between, stats_of_response

TIMEOUT_S = 600.0  # most seconds for one answer


@dataclass(frozen=True)
class Reply:
    """What a server said to one prompt.

    Attributes:
        text: of the answer; None where there is none.
        tokens: of the answer.
        stats: what the response says of acceptance; None where it says nothing.
        error: why there is no answer; "" where there is one.
    """

    text: str | None = None
    tokens: int = 0
    stats: DecodingStats | None = None
    error: str = ""


@dataclass
class ServedMethod:
    """A server that answers.

    Attributes:
        name: of the method.
        url: of its API, ending in /v1.
        model: as the server lists it.
        api_key: that it is sent, and that is kept nowhere; None: no key.
    """

    name: str
    url: str
    model: str
    api_key: str | None = field(default=None, repr=False)

    @classmethod
    def open(cls, name: str, address: str, api_key: str | None = None) -> "ServedMethod":
        """Ask a server what it serves.

        Args:
            name: of the method.
            address: URL, or URL#MODEL where the server lists several models.
            api_key: that it is sent; None: no key.

        Raises:
            ValueError: It cannot be reached, lists no model or several of which none is named, or
                aiohttp is not installed.
        """
        require("aiohttp", "aiohttp", "measuring a server", extra="serving")
        given, _, model = address.partition("#")
        url = base_urls([given])[0]
        models = asyncio.run(models_at(url, api_key))
        chosen = choose_model(models, model or None, url, f"{given}#MODEL")
        return cls(name, url, chosen.name, api_key)

    def answer(self, call: GroupCall) -> Outcome:
        """Answer a group; requests that fail are counted.

        Raises:
            ValueError: The setting samples.
        """
        if call.setting.temperature > 0:
            raise ValueError(
                f"{self.name} is asked greedily; sampled answers of another engine cannot be "
                "compared, so leave the server out at this temperature"
            )
        return asyncio.run(self._answer(call))

    async def _answer(self, call: GroupCall) -> Outcome:
        """All rows of a group at once."""
        async with open_session(TIMEOUT_S, self.api_key) as session:
            before = await ask_counters(session, self.url)
            started = time.perf_counter()
            asked = [self._ask(session, prompt, call) for prompt in call.prompts]
            replies = await asyncio.gather(*asked)
            seconds = time.perf_counter() - started
            after = await ask_counters(session, self.url)
        return Outcome(
            seconds=seconds,
            tokens=sum(reply.tokens for reply in replies),
            stats=_stats_of(replies, before, after),
            texts=[reply.text for reply in replies],
            errors=[reply.error for reply in replies if reply.error],
        )

    async def _ask(self, session: Any, prompt: Prompt, call: GroupCall) -> Reply:
        """One prompt."""
        request = OpenConversation(prompt).request()
        body = request_body(
            request,
            model=self.model,
            max_new_tokens=call.max_new_tokens,
            temperature=0.0,
            seed=call.seed,
            arguments=request.arguments(TemplateArguments()),
        )
        try:
            payload = await send(session, f"{self.url}/chat/completions", body)
            turn = parse_answer(payload, request, self.model)
        except (ServerError, ConnectionError) as error:
            return Reply(error=str(error).splitlines()[0])
        tokens = turn.sampled_tokens
        if tokens is None:  # a server that does not count
            tokens = len(call.tokenizer.encode(turn.text, add_special_tokens=False))
        if not tokens:
            return Reply(error="an answer without tokens")
        return Reply(turn.text, tokens, stats_of_response(payload))


def _stats_of(
    replies: Sequence[Reply], before: DraftCounts | None, after: DraftCounts | None
) -> DecodingStats:
    """The rounds of a group: as its responses say, else as the server's counters grew."""
    answered = [reply for reply in replies if not reply.error]
    said = [reply.stats for reply in answered if reply.stats is not None]
    if said and len(said) == len(answered):
        return sum(said, DecodingStats(rows=0))
    if before is not None and after is not None:
        return stats_between(before, after, len(answered))
    return DecodingStats(rows=len(answered))
