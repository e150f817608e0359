"""`eagle-hf follow`: a head that goes on learning from a service's log."""

from eagle_hf.cli.command import Command
from eagle_hf.following import FollowSettings, follow

COMMAND = Command(
    name="follow",
    summary="learn from a log that grows, and publish a head that drafts better than the last",
    arguments=FollowSettings,
    run=follow,
)
