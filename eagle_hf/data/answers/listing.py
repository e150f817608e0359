"""The models that a server lists, and the one that is asked for."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from eagle_hf.data.answers.errors import KeyRefusedError, ServerError
from eagle_hf.data.answers.exchange import open_session, send
from eagle_hf.data.answers.keys import USUAL
from eagle_hf.data.answers.wire import ServedModel, parse_models

if TYPE_CHECKING:
    import aiohttp

CHECK_S = 30.0  # most seconds until a server lists its models


async def list_models(session: "aiohttp.ClientSession", url: str) -> list[ServedModel]:
    """Ask a server what it serves.

    Args:
        session: from `open_session`.
        url: up to and including /v1.

    Raises:
        ValueError: it cannot be reached, wants another key, or says something else.
    """
    try:
        return parse_models(await send(session, f"{url}/models", None))
    except (ServerError, ConnectionError) as error:
        remedy = "start the server, or leave it out"
        if isinstance(error, KeyRefusedError):
            remedy = (
                "set api_key_variable to the environment variable that holds its key, such as "
                f"{USUAL}"
            )
        raise ValueError(f"{url} does not list its models ({error}); {remedy}") from error


async def models_at(url: str, api_key: str | None) -> list[ServedModel]:
    """What a server serves, by a session of its own; as `list_models`."""
    async with open_session(CHECK_S, api_key) as session:
        return await list_models(session, url)


def choose_model(
    models: Sequence[ServedModel], wanted: str | None, server: str, remedy: str
) -> ServedModel:
    """The model that a server is asked for.

    Args:
        models: that it lists.
        wanted: its name. None: the only one.
        server: its name, for the error.
        remedy: how a model is named.

    Raises:
        ValueError: it does not list that one, or several and none is wanted.
    """
    found = [model for model in models if wanted in (None, model.name)]
    if len(found) == 1:
        return found[0]
    if not models:
        raise ValueError(f"{server} serves nothing; start it with a model, or leave it out")
    names = ", ".join(model.name for model in models)
    reason = "name one of them" if wanted is None else f"{wanted!r} is not among them"
    raise ValueError(f"{server} serves {names}; {reason}: {remedy}")
