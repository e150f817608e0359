"""`eagle-hf follow`: a head that goes on learning from a service's log."""

import sys

from transformers.utils import logging

from eagle_hf.cli.command import Command
from eagle_hf.following import FollowSettings, follow


def run(settings: FollowSettings) -> None:
    """Follow the log; outside of a terminal lines are printed and no bars, for cron sends mail."""
    if not sys.stderr.isatty():
        logging.disable_progress_bar()
    follow(settings)


COMMAND = Command(
    name="follow",
    summary="learn from a log that grows, and publish a head that drafts better than the last",
    arguments=FollowSettings,
    run=run,
)
