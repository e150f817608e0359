"""One HTTP exchange, its failures as the two kinds that matter: reached or not."""

from typing import TYPE_CHECKING, Any

from eagle_hf.data.answers.errors import TryAgainError
from eagle_hf.data.answers.keys import MASK
from eagle_hf.data.answers.wire import check_status, parse_json

if TYPE_CHECKING:
    import aiohttp

CONNECT_S = 10.0  # most seconds until a server accepts a connection
BEARER = "Bearer "


def open_session(timeout_s: float, api_key: str | None) -> "aiohttp.ClientSession":
    """Open a session for many requests at once; use it as a context manager.

    Args:
        timeout_s: most seconds for one exchange.
        api_key: sent with every request. None: no key.

    Returns:
        The session.
    """
    import aiohttp

    headers = {} if api_key is None else {"Authorization": f"{BEARER}{api_key}"}
    timeout = aiohttp.ClientTimeout(total=timeout_s, sock_connect=CONNECT_S)
    # How many requests are in flight is the pool's to say.
    connector = aiohttp.TCPConnector(limit=0)
    return aiohttp.ClientSession(headers=headers, timeout=timeout, connector=connector)


async def send(
    session: "aiohttp.ClientSession", url: str, body: dict[str, Any] | None
) -> dict[str, Any]:
    """Send a request and read the JSON object that answers it.

    Args:
        session: from `open_session`.
        url: where to.
        body: is posted as JSON. None: a GET.

    Returns:
        The object.

    Raises:
        ConnectionError: the server could not be connected to, so the request never arrived.
        ServerError: the server answered something else, or broke off; see errors.py.
    """
    import aiohttp

    method = "GET" if body is None else "POST"
    try:
        # A redirected POST would become a GET.
        async with session.request(method, url, json=body, allow_redirects=False) as response:
            raw = without_key(await response.read(), session)
            retry_after = response.headers.get("Retry-After")
            check_status(response.status, raw, retry_after)
    except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
        raise ConnectionError(str(error)) from error
    except TimeoutError as error:
        raise TryAgainError(
            f"{url} did not answer in {session.timeout.total} s; raise timeout_s or lower "
            "concurrency"
        ) from error
    except (aiohttp.ClientError, OSError) as error:
        raise TryAgainError(f"{url} broke off ({type(error).__name__}: {error})") from error
    return parse_json(raw)


def without_key(raw: bytes, session: "aiohttp.ClientSession") -> bytes:
    """What a server said, without the key that it was sent; some repeat it in their errors."""
    key = session.headers.get("Authorization", "").removeprefix(BEARER)
    return raw.replace(key.encode(), MASK.encode()) if key else raw
