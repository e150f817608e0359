"""What is kept of earlier answers when the prompts of a run have changed.

An answer belongs to its question. A prompt whose text changed under its old id, because its source
was edited or another privacy rule redacts it, is asked again; all others keep their answers.
"""

import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from eagle_hf.data import Prompt, TurnStore
from eagle_hf.data.answers import TURNS
from eagle_hf.data.manifest import MANIFEST
from eagle_hf.data.rows import question_of
from eagle_hf.pipeline.records import set_aside
from eagle_hf.pipeline.rows import read_rows


def keep_matching_answers(prompts: Path, folder: Path) -> Path | None:
    """Make a folder of answers fit for prompts of which some have changed.

    The new folder is made beside the old one, so that a killed run keeps one of them whole.

    Args:
        prompts: JSON lines of the prompts that will be asked.
        folder: of earlier answers; it need not exist.

    Returns:
        Where the old folder was moved to; None where no prompt changed, and nothing was moved.
    """
    new = folder.with_name(f"{folder.name}.new")
    if new.is_dir() and folder.is_dir():
        shutil.rmtree(new)  # a run was killed while it copied
    elif new.is_dir():
        new.rename(folder)  # a run was killed between the last two lines of this function
    if not (folder / TURNS).is_file():
        return None
    with TurnStore(folder) as store:
        changed = _changed_ids(prompts, store)
    if not changed:
        return None
    new.mkdir()
    shutil.copyfile(folder / MANIFEST, new / MANIFEST)
    with TurnStore(folder) as source, TurnStore(new) as store:
        unchanged = (prompt for prompt in source.prompts() if prompt["id"] not in changed)
        copy_turns(source, store, unchanged)
        store.sync()
    old = set_aside(folder)
    new.rename(folder)
    return old


def copy_turns(source: TurnStore, into: TurnStore, prompts: Iterable[Prompt]) -> int:
    """Copy finished turns from one store to another, which keeps those that it has.

    Args:
        source: of the turns.
        into: gets them.
        prompts: whose turns are copied; those of `source`.

    Returns:
        How many turns are new there.
    """
    count = 0
    for prompt in prompts:
        for turn in source.turns(prompt["id"]):
            count += into.add(prompt, turn)
    return count


def _changed_ids(prompts: Path, store: TurnStore) -> set[str]:
    """The ids of prompts whose stored question is another one."""
    changed = set()
    for prompt in read_rows(prompts):
        stored: Any = store.prompt(prompt["id"])
        if stored is not None and question_of(stored) != question_of(prompt):
            changed.add(prompt["id"])
    return changed
