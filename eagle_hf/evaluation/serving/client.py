"""One request, streamed and timed.

While a stream runs, lines are noted with their times and nothing else is done; they are read when
it has ended.
"""

import asyncio
import time
import uuid
from typing import TYPE_CHECKING, Any

from eagle_hf.data.answers.asking import request_body
from eagle_hf.data.answers.exchange import without_key
from eagle_hf.data.answers.turns import OpenConversation
from eagle_hf.data.rows import Prompt
from eagle_hf.data.templates.arguments import TemplateArguments
from eagle_hf.evaluation.serving.records import INTERRUPTED, RequestRecord
from eagle_hf.evaluation.serving.servers import OpenServer
from eagle_hf.evaluation.serving.settings import BenchSettings
from eagle_hf.evaluation.serving.stream import DATA, BrokenStreamError, read_stream

if TYPE_CHECKING:
    import aiohttp

SHOWN = 300  # characters of a refusal in a record
# llama.cpp's server closes a connection behind an answer without saying so: a request on it fails.
OWN_CONNECTION = {"Connection": "close"}
Lines = list[tuple[float, bytes]]


class StreamClient:
    """Asks one server.

    Args:
        session: of aiohttp, see `open_session`.
        server: who is asked.
        settings: how.
        started: `time.perf_counter()` when the run began; records count from it.
    """

    def __init__(
        self,
        session: "aiohttp.ClientSession",
        server: OpenServer,
        settings: BenchSettings,
        started: float,
    ):
        self._session = session
        self._server = server
        self._settings = settings
        self._started = started

    async def ask(self, prompt: Prompt, max_new_tokens: int | None = None) -> RequestRecord:
        """Ask a prompt's first turn.

        Args:
            prompt: with its system message, tools and template variables.
            max_new_tokens: default: that of the settings.

        Returns:
            The record, also of a request that failed or was interrupted: then it says so.
        """
        body = self._body(prompt, max_new_tokens or self._settings.max_new_tokens)
        lines: Lines = []
        sent = time.perf_counter()
        record = RequestRecord(prompt["id"], prompt["category"], sent=sent - self._started)
        try:
            await self._stream(body, sent, lines)
            self._read(lines, record)
        except asyncio.CancelledError:
            record.failure = INTERRUPTED
        except BrokenStreamError as error:
            record.failure = error.kind
            record.detail = str(error)
        record.ended = time.perf_counter() - self._started
        if record.failure:
            record.broken = [(seconds, len(line)) for seconds, line in lines]
        return record

    def _body(self, prompt: Prompt, max_new_tokens: int) -> dict[str, Any]:
        """The JSON of the request."""
        request = OpenConversation(prompt).request()
        return request_body(
            request,
            model=self._server.model,
            max_new_tokens=max_new_tokens,
            temperature=self._settings.temperature,
            seed=self._settings.seed,
            request_fields=self._settings.fields_for(self._server.engine, uuid.uuid4().hex),
            arguments=request.arguments(TemplateArguments()),
        )

    async def _stream(self, body: dict[str, Any], sent: float, lines: Lines) -> None:
        """Send the request and note every line of data."""
        import aiohttp

        url = f"{self._server.server.url}/chat/completions"
        try:
            async with self._session.post(
                url, json=body, headers=OWN_CONNECTION, allow_redirects=False
            ) as response:
                if response.status != 200:
                    raw = without_key(await response.read(), self._session)
                    why = raw[:SHOWN].decode("utf-8", "replace")
                    raise BrokenStreamError(f"HTTP {response.status}", why)
                async for line in response.content:
                    if line.startswith(DATA):
                        lines.append((time.perf_counter() - sent, line))
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            raise BrokenStreamError("no connection", str(error)) from error
        except TimeoutError as error:
            detail = f"no whole answer in {self._settings.timeout_s} s"
            raise BrokenStreamError("timed out", detail) from error
        except (aiohttp.ClientError, OSError) as error:
            detail = f"{type(error).__name__}: {error}"
            raise BrokenStreamError("the stream broke off", detail) from error
        except ValueError as error:  # a line beyond aiohttp's buffer
            if isinstance(error, BrokenStreamError):
                raise
            raise BrokenStreamError("a line too long to read", str(error)) from error

    def _read(self, lines: Lines, record: RequestRecord) -> None:
        """Fill in a record from the lines of a whole stream."""
        answer = read_stream(
            [(seconds, without_key(line, self._session)) for seconds, line in lines]
        )
        record.ttft = answer.first
        record.e2e = answer.last
        record.tokens = answer.tokens
        record.arrivals = answer.arrivals
        record.drafts = answer.drafts
        record.build = answer.build
