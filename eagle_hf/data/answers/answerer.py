"""Turns answered by OpenAI-compatible servers over HTTP, many at once.

Each worker takes a conversation and asks its turns one after the other. There are as many workers
as requests may be in flight. An attempt goes to the least busy server, so the next attempt may go
to another one.
"""

import asyncio
from collections.abc import AsyncGenerator, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from eagle_hf.data.answers.asking import request_body
from eagle_hf.data.answers.dates import for_server
from eagle_hf.data.answers.errors import (
    RefusedPromptError,
    ServerError,
    TryAgainError,
    WrongServerError,
)
from eagle_hf.data.answers.exchange import open_session, send
from eagle_hf.data.answers.listing import CHECK_S, choose_model, list_models
from eagle_hf.data.answers.pool import Server, ServerPool
from eagle_hf.data.answers.recovery import IdRecovery
from eagle_hf.data.answers.sampling import batch_seed
from eagle_hf.data.answers.settings import ServingSettings, base_urls
from eagle_hf.data.answers.turns import FailedTurn, FinishedTurn, OpenConversation, TurnRequest
from eagle_hf.data.answers.wire import parse_answer
from eagle_hf.data.templates.arguments import TemplateArguments

if TYPE_CHECKING:
    import aiohttp

SEEDS = 2**31  # seeds that every engine takes

# What a worker puts out: a turn, why the whole run must stop, or None once it has ended.
Outcome = FinishedTurn | FailedTurn | Exception | None


class ServedAnswerer:
    """Answers conversations on servers; an `Answerer`.

    Args:
        urls: of the servers, such as http://localhost:8000. A /v1 is added where it is not there.
        settings: how they are asked.
        recovery: fills in token ids that the servers do not give. None: they stay missing.
        api_key: sent to every server. It is kept nowhere.

    Raises:
        ValueError: a url that is none, or aiohttp or stamina is not installed.
    """

    def __init__(
        self,
        urls: Sequence[str],
        settings: ServingSettings,
        recovery: IdRecovery | None = None,
        api_key: str | None = None,
    ):
        _check_installed()
        servers = [Server(url) for url in base_urls(urls)]
        self.settings = settings
        self.recovery = recovery
        self._api_key = api_key
        self._is_checked = False
        self._pool = ServerPool(servers, settings.concurrency, settings.patience_s)

    @property
    def model(self) -> str:
        """The name of the target on the servers."""
        return self.settings.model

    async def check_servers(self) -> None:
        """Ask every server which models it serves.

        Raises:
            ValueError: a server cannot be reached, or does not list the model; all are named.
        """
        timeout_s = min(self.settings.timeout_s, CHECK_S)
        async with open_session(timeout_s, self._api_key) as session:
            checks = [self._check_server(session, server) for server in self._pool.servers]
            faults = await asyncio.gather(*checks)
        found = [fault for fault in faults if fault is not None]
        if found:
            raise ValueError("; ".join(found))
        self._is_checked = True

    async def answer(
        self, conversations: Iterable[OpenConversation]
    ) -> AsyncGenerator[FinishedTurn | FailedTurn]:
        """Answer every turn that is left; see `Answerer`.

        Args:
            conversations: taken one after the other, as they are needed.

        Yields:
            Each turn as soon as it is finished.

        Raises:
            ValueError: a server does not list the model, answers no prompt, or answers with
                another model.
        """
        if not self._is_checked:
            await self.check_servers()
        waiting = iter(conversations)
        outcomes: asyncio.Queue[Outcome] = asyncio.Queue()
        running = self.settings.concurrency * len(self._pool.servers)
        async with open_session(self.settings.timeout_s, self._api_key) as session:
            workers = []
            for _ in range(running):
                workers.append(asyncio.create_task(self._work(session, waiting, outcomes)))
            try:
                while running:
                    outcome = await outcomes.get()
                    if isinstance(outcome, Exception):
                        raise outcome
                    if outcome is None:
                        running -= 1
                    else:
                        yield outcome
            finally:
                for worker in workers:
                    worker.cancel()
                await asyncio.gather(*workers, return_exceptions=True)

    async def _work(
        self,
        session: "aiohttp.ClientSession",
        waiting: Iterator[OpenConversation],
        outcomes: asyncio.Queue[Outcome],
    ) -> None:
        """Answer conversations until none is left, or until one shows that the run must stop."""
        try:
            for conversation in waiting:
                while not conversation.is_finished:
                    outcome = await self._ask(session, conversation.request())
                    outcomes.put_nowait(outcome)
                    if isinstance(outcome, FailedTurn):
                        break
                    conversation.hear(outcome)
        except Exception as error:  # raised again by `answer`
            outcomes.put_nowait(error)
        outcomes.put_nowait(None)

    async def _ask(
        self, session: "aiohttp.ClientSession", request: TurnRequest
    ) -> FinishedTurn | FailedTurn:
        """One turn, in as many attempts as it takes and settings allow."""
        import stamina

        settings = self.settings
        tries = stamina.retry_context(
            on=self._wait_before_retry,
            attempts=settings.attempts,
            timeout=None,
            wait_initial=settings.first_wait_s,
            wait_max=settings.longest_wait_s,
            wait_jitter=settings.first_wait_s,
        )
        template = None if self.recovery is None else self.recovery.template
        try:
            arguments = request.arguments(settings.template_arguments)
            if template is not None:
                arguments.check_read_by(template)
        except ValueError as error:
            return FailedTurn(request.id, request.turn, str(error), is_final=True)
        arguments = for_server(arguments, template)
        try:
            async for attempt in tries:
                with attempt:
                    turn = await self._attempt(session, request, arguments)
        except WrongServerError:
            raise
        except ServerError as error:
            is_final = isinstance(error, RefusedPromptError)
            return FailedTurn(request.id, request.turn, str(error), is_final)
        return self.recovery.fill(request, turn, arguments) if self.recovery else turn

    def _wait_before_retry(self, error: Exception) -> bool | float:
        """Whether an error is worth another attempt; seconds where the server named them."""
        if not isinstance(error, TryAgainError):
            return False
        if error.retry_after is None:
            return True
        # A server that names a day must not hold the run for a day.
        return min(error.retry_after, self.settings.patience_s)

    async def _attempt(
        self,
        session: "aiohttp.ClientSession",
        request: TurnRequest,
        arguments: TemplateArguments,
    ) -> FinishedTurn:
        """One attempt, at the first server that can be connected to."""
        settings = self.settings
        while True:
            server = await self._pool.take()
            body = request_body(
                request,
                model=settings.model,
                max_new_tokens=settings.max_new_tokens,
                temperature=settings.temperature,
                seed=batch_seed(settings.seed, request.turn, request.id) % SEEDS,
                engine=server.engine,
                request_fields=settings.request_fields,
                arguments=arguments,
            )
            try:
                payload = await send(session, f"{server.url}/chat/completions", body)
                turn = parse_answer(payload, request, settings.model)
            except ConnectionError:
                # The request never arrived, so it costs no attempt: the server may be restarting.
                server.note_gone()
                continue
            except WrongServerError as error:
                raise WrongServerError(
                    f"{server.url} cannot be used: {error}; leave it out and run again"
                ) from error
            finally:
                server.end()
            # After a failure to connect only a whole answer counts: it may still be loading.
            server.note_reached()
            return turn

    async def _check_server(self, session: "aiohttp.ClientSession", server: Server) -> str | None:
        """What is wrong with a server; None where it serves the model."""
        try:
            models = await list_models(session, server.url)
            remedy = "name the model as it is listed there, or leave the server out"
            model = choose_model(models, self.settings.model, server.url, remedy)
        except ValueError as error:
            return str(error)
        server.introduce(model.engine)
        return None


def _check_installed() -> None:
    """Refuse before anything is asked where a package is missing."""
    try:
        import aiohttp  # noqa: F401
        import stamina  # noqa: F401
    except ImportError as error:
        raise ValueError(
            f"answers from servers need aiohttp and stamina ({error}); "
            "pip install 'eagle_hf[serving]'"
        ) from error
