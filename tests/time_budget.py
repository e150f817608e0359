"""`pytest --minutes N`: tests begin for N minutes, and those that are left are skipped, by name.

For machines whose whole run must end in time. Which files come first changes from day to day, so
that all of them are run within some days. A test that has begun runs to its end.
"""

import datetime
import time

import pytest

NO_LIMIT = float("inf")


class TimeBudget:
    """The plugin of one run; the clock starts with its first test."""

    def __init__(self, minutes: float, day: int):
        self.minutes = minutes
        self.day = day
        self._deadline = NO_LIMIT

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Begin with another file every day; the tests of a file stay together."""
        files = list(dict.fromkeys(item.path for item in items))
        if not files:
            return
        first = self.day % len(files)
        order = {path: place for place, path in enumerate(files[first:] + files[:first])}
        items.sort(key=lambda item: order[item.path])

    def pytest_runtestloop(self) -> None:
        """Start the clock."""
        self._deadline = time.monotonic() + 60 * self.minutes

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self) -> None:
        """Skip what would begin too late."""
        if time.monotonic() > self._deadline:
            pytest.skip(f"the {self.minutes:g} minutes of this run are over")


def add_option(parser: pytest.Parser) -> None:
    """Teach pytest the option."""
    parser.addoption("--minutes", type=float, help="begin no test after so many minutes")


def install(config: pytest.Config) -> None:
    """Keep the budget that was asked for, if one was."""
    minutes = config.getoption("--minutes")
    if minutes is not None:
        today = datetime.date.today().toordinal()
        config.pluginmanager.register(TimeBudget(minutes, today), "time_budget")
