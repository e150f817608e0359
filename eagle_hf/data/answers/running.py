"""A coroutine run to its end, also from a notebook, where an event loop runs already."""

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")


def run_to_end(start: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run a coroutine and wait for what it returns.

    Args:
        start: makes the coroutine.

    Returns:
        Its result.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(start())
    return _run_beside(start)


def _run_beside(start: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run a coroutine in a loop of another thread. An interrupt of this one stops it."""
    running: list[tuple[asyncio.AbstractEventLoop, asyncio.Task]] = []

    async def noted() -> T:
        task = asyncio.current_task()
        assert task is not None, "a coroutine that asyncio runs is a task"
        running.append((asyncio.get_running_loop(), task))
        return await start()

    def run() -> T:
        return asyncio.run(noted())

    with ThreadPoolExecutor(max_workers=1) as pool:
        future = pool.submit(run)
        try:
            return future.result()
        except BaseException:
            if running and not future.done():
                loop, task = running[0]
                loop.call_soon_threadsafe(task.cancel)
            raise
