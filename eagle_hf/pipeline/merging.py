"""The answers of all shards as those of one run; nothing is asked for it."""

import re
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from eagle_hf.data import TurnStore
from eagle_hf.data.manifest import MANIFEST, only_one_run, read_manifest
from eagle_hf.pipeline.answers import TURNS, copy_turns
from eagle_hf.pipeline.executor import Metrics
from eagle_hf.pipeline.inputs import CONVERSATIONS, Inputs
from eagle_hf.pipeline.looking import look_at_step
from eagle_hf.pipeline.records import AGAIN, DONE, IS_DONE, StepRecord, file_fingerprint, set_aside
from eagle_hf.pipeline.rows import read_rows, write_rows
from eagle_hf.pipeline.settings import DataConfig
from eagle_hf.pipeline.sharding import SHARDS, Shard
from eagle_hf.pipeline.steps import BY_NAME, settings_of
from eagle_hf.pipeline.target import RunTarget

FOLDER = re.compile(r"(\d+)-of-(\d+)")
ANSWERS = BY_NAME["answers"]
# Of the manifests of all shards these must be equal: who answered.
SAME = ("step", "target_weights", "template_sha256", "model")
COUNTED = ("prompts", "finished", "already_there", "skipped", "failed", "sampled_tokens", "cut")


def merge_shards(config: DataConfig, target: RunTarget) -> Metrics:
    """Join the answers of all shards in the run's own folder of answers, where they are kept too.

    Args:
        config: of the run.
        target: of the run.

    Returns:
        The sums of what the shards counted.

    Raises:
        ValueError: shards of several divisions, an unfinished one, or shards of two targets.
    """
    shards = find_shards(config)
    with only_one_run(config.output_dir):
        folders = [_finished_folder(config, target, shard) for shard in shards]
        _check_same_answerer(folders)
        inputs = Inputs(config, target)
        inputs.choose(ANSWERS)
        folder = inputs.folder(ANSWERS)
        if look_at_step(ANSWERS, inputs).verdict.action == AGAIN:
            print(f"answers of other settings: kept in {set_aside(folder)}")
        folder.mkdir(parents=True, exist_ok=True)
        record = StepRecord("answers", settings_of(ANSWERS, config), inputs.fingerprints(ANSWERS))
        record.write(folder)
        _join(folders, folder)
        record.metrics = _sums(folders)
        record.output = file_fingerprint(folder / CONVERSATIONS)
        record.state = DONE
        record.write(folder)
    print(f"{len(shards)} shards joined in {folder}")
    return record.metrics


def find_shards(config: DataConfig) -> list[Shard]:
    """All shards of the division that a run was made in.

    Args:
        config: of the run.

    Returns:
        The shards by number, those without a folder included.

    Raises:
        ValueError: there are none, or those of several divisions.
    """
    parent = Path(config.output_dir, SHARDS)
    counts = set()
    for path in parent.glob("*-of-*"):
        found = FOLDER.fullmatch(path.name)
        if found is not None:
            counts.add(int(found[2]))
    if not counts:
        raise ValueError(f"{parent} holds no shards; make them: --shard 0/4, --shard 1/4, ...")
    if len(counts) > 1:
        divisions = " and ".join(map(str, sorted(counts)))
        raise ValueError(
            f"{parent} holds shards of divisions into {divisions}; move those of all but one away"
        )
    count = counts.pop()
    return [Shard(number, count) for number in range(count)]


def _finished_folder(config: DataConfig, target: RunTarget, shard: Shard) -> Path:
    """The folder of a shard's answers; ValueError where they are not all there."""
    inputs = Inputs(config, target, shard, in_parts=(ANSWERS.name,))
    inputs.choose(ANSWERS)
    verdict = look_at_step(ANSWERS, inputs).verdict
    if verdict.action != IS_DONE:
        raise ValueError(
            f"shard {shard} is not finished, its answers step {verdict}; run it: --shard {shard}"
        )
    return inputs.folder(ANSWERS)


def _check_same_answerer(folders: list[Path]) -> None:
    """Refuse to join the answers of two targets."""
    first: dict[str, Any] = {}
    for folder in folders:
        if not (folder / MANIFEST).exists():
            continue  # a shard without prompts
        manifest = read_manifest(folder)
        found = {name: manifest.get(name) for name in SAME}
        if first and found != first:
            raise ValueError(f"{folder} holds answers of {found}, and others of {first}")
        first = found


def _join(folders: list[Path], into: Path) -> None:
    """Copy the shards' turns and conversations beside those that are there."""
    with ExitStack() as stack:
        stores = [folder for folder in folders if (folder / TURNS).is_file()]
        if stores:
            store = stack.enter_context(TurnStore(into))
            for folder in stores:
                source = stack.enter_context(TurnStore(folder))
                copy_turns(source, store, source.prompts())
    for folder in folders:
        if (folder / MANIFEST).exists() and not (into / MANIFEST).exists():
            shutil.copyfile(folder / MANIFEST, into / MANIFEST)
    write_rows(into / CONVERSATIONS, _conversations([into, *folders]))


def _conversations(folders: list[Path]) -> Iterator[dict[str, Any]]:
    """The conversations of all folders, each id once."""
    known: set[str] = set()
    for folder in folders:
        path = folder / CONVERSATIONS
        if not path.is_file():
            continue
        for row in read_rows(path):
            if row["id"] not in known:
                known.add(row["id"])
                yield row


def _sums(folders: list[Path]) -> Metrics:
    """What the shards counted, together."""
    sums = dict.fromkeys(COUNTED, 0)
    for folder in folders:
        record = StepRecord.read(folder)
        assert record is not None, "the shard is finished"
        for name in COUNTED:
            sums[name] += record.metrics.get(name, 0)
    return sums
