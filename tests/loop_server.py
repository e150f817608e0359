"""A server of the tests: an event loop in a thread, until its block ends."""

import asyncio
import threading
from typing import Any, Self


class LoopServer:
    """Serves on this machine until its block ends; a server says in `open` and `close` how.

    Args:
        port: where it listens; 0: a free one.
    """

    def __init__(self, port: int = 0):
        self.port = port
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._ready.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Close every connection, as a server that dies does; also from within an answer."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._loop.stop)
            if threading.current_thread() is not self._thread:
                self._thread.join(10)

    async def open(self) -> tuple[Any, int]:
        """(what listens, at which port)."""
        raise NotImplementedError

    async def close(self, listener: Any) -> None:
        """Close what listens, and its connections."""
        raise NotImplementedError

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        listener, self.port = self._loop.run_until_complete(self.open())
        self._ready.set()
        self._loop.run_forever()
        self._loop.run_until_complete(self.close(listener))
        self._loop.close()
