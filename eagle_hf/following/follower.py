"""One call: go on with what was interrupted, read the log, run a cycle, push what it published."""

import shutil
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from eagle_hf.data.manifest import only_one_run
from eagle_hf.following.choosing import Waiting, choose_split
from eagle_hf.following.cycle import Cycle
from eagle_hf.following.log_files import find_log_files
from eagle_hf.following.log_rows import Limits, RowReader
from eagle_hf.following.models import FIRST, Models
from eagle_hf.following.pool import Pool
from eagle_hf.following.reading import Reading, find_unread, read_files
from eagle_hf.following.settings import FollowSettings
from eagle_hf.following.versions import CURRENT, Versions
from eagle_hf.hub.publish import push_folder


def follow(settings: FollowSettings, say: Callable[[str], None] = print) -> None:
    """Run a cycle if there is enough to learn; with `every`, one after the other without end.

    Args:
        settings: which head follows which log.
        say: is told what happens, a line at a time.

    Raises:
        ValueError: there is no log, nothing in it can be used, target, head and output folder do
            not fit, the disk is full, or another call is at work in the output folder.
    """
    check_apart(settings.out, settings.log)
    find_log_files(settings.log)
    models = Models(settings)
    with only_one_run(settings.out):
        while True:
            begun = time.monotonic()
            run_once(models, settings, say)
            if settings.every is None:
                return
            time.sleep(max(0.0, 60 * settings.every - (time.monotonic() - begun)))


def check_apart(out: Path, log: Path) -> None:
    """Refuse an output folder inside the log, whose history would be read as a log.

    Args:
        out: the output folder.
        log: the folder of the log.

    Raises:
        ValueError: it is.
    """
    if out.resolve().is_relative_to(log.resolve()):
        raise ValueError(f"out is {out}, inside the log {log}; choose a folder outside of it")


def run_once(models: Models, settings: FollowSettings, say: Callable[[str], None]) -> None:
    """One call, in a folder that no other call writes to."""
    versions = Versions(settings.out)
    if not versions.numbers():
        models.adopt_head(versions)
    if versions.numbers() == [FIRST] and not (settings.out / CURRENT).is_symlink():
        versions.switch(FIRST)
    pool = Pool(settings.out)
    try:
        cycle = Cycle(models, pool, versions, settings, say)
        # 1) what a killed call has left
        cycle.go_on()
        remove_leftovers(settings.out, versions, settings.keep)
        push_unpushed(pool, versions, settings, say)

        # 2) what the log has got
        read_log(models, pool, settings, say)

        # 3) a cycle
        split = choose_split(pool, settings, cycle.next_number())
        if isinstance(split, Waiting):
            say(f"{split.reason}; current is version {versions.current()}")
            return
        cycle.begin(split)
        cycle.go_on()
        remove_leftovers(settings.out, versions, settings.keep)
        push_unpushed(pool, versions, settings, say)
    finally:
        pool.close()


def read_log(
    models: Models, pool: Pool, settings: FollowSettings, say: Callable[[str], None]
) -> None:
    """Take what the log has got into the pool.

    Raises:
        ValueError: no line of the log could ever be used.
    """
    reading = Reading()
    files = find_unread(settings.log, pool, reading)
    if files:
        reader = RowReader(known_limits(models, pool), models.tokenizer)

        def bound() -> None:
            pool.shrink(settings.most_new, settings.reservoir)

        read_files(files, pool, reader, reading, bound)
    if files or reading.unreadable:
        say(str(reading))
    if reading.bad and not pool.fact("has_conversations", False):
        raise ValueError(
            f"no line of the log {settings.log} could be used so far: {'; '.join(reading.reasons)}"
        )


def known_limits(models: Models, pool: Pool) -> Limits:
    """The target's limits, which are asked of it once."""
    kept = pool.fact("limits", None)
    if kept is None:
        kept = asdict(models.limits())
        with pool.transaction():
            pool.set_facts(limits=kept)
    return Limits(kept["vocabulary"], kept["max_length"], tuple(kept["stop"]))


def remove_leftovers(out: Path, versions: Versions, keep: int) -> None:
    """Delete old versions, and folders of cycles that have ended."""
    versions.prune(keep)
    for folder in out.glob("cycle-*"):
        shutil.rmtree(folder, ignore_errors=True)


def push_unpushed(
    pool: Pool, versions: Versions, settings: FollowSettings, say: Callable[[str], None]
) -> None:
    """Push the current version, if a cycle published it and no call has pushed it yet.

    Raises:
        ValueError: it was not pushed; the next call tries again.
    """
    current = versions.current()
    if settings.hub_id is None or current == FIRST or pool.fact("pushed", FIRST) == current:
        return
    push_folder(
        versions.path(current),
        settings.hub_id,
        commit_message=f"Version {current}",
        private=settings.private or None,
    )
    with pool.transaction():
        pool.set_facts(pushed=current)
    say(f"version {current} was pushed to {settings.hub_id}")
