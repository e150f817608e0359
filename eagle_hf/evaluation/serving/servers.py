"""Servers by label, and what they say of themselves."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from eagle_hf.data.answers.errors import ServerError
from eagle_hf.data.answers.exchange import open_session, send
from eagle_hf.data.answers.keys import ServerKeys
from eagle_hf.data.answers.listing import CHECK_S, choose_model, list_models
from eagle_hf.data.answers.settings import base_urls

SCHEMES = ("http://", "https://")


@dataclass(frozen=True)
class NamedServer:
    """A server and what its rows are called.

    Attributes:
        label: such as "with head".
        url: up to and including /v1.
    """

    label: str
    url: str

    @classmethod
    def parse_all(cls, texts: Sequence[str]) -> list["NamedServer"]:
        """Read servers as the command line names them.

        Args:
            texts: each LABEL=URL, or a URL, which is its own label then.

        Raises:
            ValueError: no address, or a label or an address twice.
        """
        labels = []
        urls = []
        for text in texts:
            if text.startswith(SCHEMES):
                label = text.partition("//")[2].rstrip("/")
                url = text
            else:
                label, _, url = text.partition("=")
            if not label or not url:
                raise ValueError(
                    f"the server is {text!r}; write a label and an address, as "
                    "plain=http://localhost:8000"
                )
            if label in labels:
                raise ValueError(f"two servers are called {label!r}; give each its own label")
            labels.append(label)
            urls.append(url)
        return [cls(*named) for named in zip(labels, base_urls(urls), strict=True)]

    @property
    def root(self) -> str:
        """The address without /v1, where engines have their metrics."""
        return self.url.removesuffix("/v1")


@dataclass(frozen=True)
class OpenServer:
    """A server that was reached.

    Attributes:
        server: which.
        model: the name that it is asked for.
        engine: what it calls itself, such as "vllm"; "" where it does not say.
        version: of the engine; "" where it does not say.
    """

    server: NamedServer
    model: str
    engine: str
    version: str = ""


async def open_servers(
    servers: Sequence[NamedServer], model: str | None, keys: ServerKeys
) -> list[OpenServer]:
    """Ask every server for its models.

    Args:
        servers: which.
        model: that is to be asked for. None: the only one that a server lists.
        keys: of the servers.

    Raises:
        ValueError: a server cannot be reached, or does not list the model; all are named.
    """
    checks = [_open(server, model, keys.of(server.label)) for server in servers]
    opened = await asyncio.gather(*checks, return_exceptions=True)
    faults = [str(fault) for fault in opened if isinstance(fault, ValueError)]
    if faults:
        raise ValueError("; ".join(faults))
    found = []
    for server in opened:
        if isinstance(server, BaseException):
            raise server
        found.append(server)
    return found


async def _open(server: NamedServer, model: str | None, api_key: str | None) -> OpenServer:
    """Ask one server."""
    async with open_session(CHECK_S, api_key) as session:
        models = await list_models(session, server.url)
        named = f"{server.label} at {server.url}"
        chosen = choose_model(models, model, named, "--model NAME")
        version = ""
        try:
            answer = await send(session, f"{server.root}/version", None)
            version = str(answer.get("version") or "")
        except (ServerError, ConnectionError):
            pass  # vLLM alone has this address; others name their build in answers
        return OpenServer(server, chosen.name, chosen.engine, version)
