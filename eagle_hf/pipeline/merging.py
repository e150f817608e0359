"""What all shards made as that of one run; nothing is asked or captured for it."""

import re
import shutil
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from eagle_hf.data import TurnStore, join_features
from eagle_hf.data.answers import CONVERSATIONS, TURNS
from eagle_hf.data.manifest import MANIFEST, only_one_run, read_manifest
from eagle_hf.pipeline.answers import copy_turns, keep_matching_answers
from eagle_hf.pipeline.executor import Executor, Metrics
from eagle_hf.pipeline.inputs import Inputs
from eagle_hf.pipeline.looking import failed_last_time, look_at_step
from eagle_hf.pipeline.records import AGAIN, DONE, IS_DONE, StepRecord, file_fingerprint, set_aside
from eagle_hf.pipeline.rows import count_lines, read_rows, write_rows
from eagle_hf.pipeline.running import run_data
from eagle_hf.pipeline.settings import DataConfig
from eagle_hf.pipeline.sharding import SHARDS, Shard
from eagle_hf.pipeline.steps import BY_NAME, Step, settings_of
from eagle_hf.pipeline.target import RunTarget

FOLDER = re.compile(r"(\d+)-of-(\d+)")
ANSWERS = BY_NAME["answers"]
FEATURES = BY_NAME["features"]
# Of the manifests of all shards these must be equal: who answered.
SAME = ("step", "target_weights", "template_sha256", "model")


def merge_shards(config: DataConfig, target: RunTarget, executor: Executor) -> dict[str, Metrics]:
    """Join the answers of all shards, make the steps behind them, and join the features.

    Args:
        config: of the run.
        target: of the run.
        executor: makes the steps that are not made in shards.

    Returns:
        The counts of every step that is done, by its name.

    Raises:
        ValueError: shards of several divisions, an unfinished one, or shards of two targets.
    """
    shards = find_shards(config)
    with only_one_run(config.output_dir):
        _merge_answers(config, target, shards)
    behind = [step for step in config.steps if step != FEATURES.name]
    metrics = run_data(config, target, executor, only=behind)
    if FEATURES.name not in config.steps:
        return metrics
    if not any(_record_folder(config, shard).is_dir() for shard in shards):
        print("features are left: --shard 0/N --only features for each shard, or no --shard")
        return metrics
    with only_one_run(config.output_dir):
        _merge_features(config, target, shards)
    return run_data(config, target, executor)


def _merge_answers(config: DataConfig, target: RunTarget, shards: list[Shard]) -> None:
    """Join the answers of all shards in the run's own folder; the shards keep theirs."""
    folders = [_finished_folder(ANSWERS, config, target, shard) for shard in shards]
    _check_same_answerer(folders)
    inputs = Inputs(config, target)
    inputs.choose(ANSWERS)
    folder = inputs.folder(ANSWERS)
    if look_at_step(ANSWERS, inputs).verdict.action == AGAIN:
        print(f"answers of other settings: kept in {set_aside(folder)}")
    keep_matching_answers(inputs.asked(), folder)
    record = _begin(ANSWERS, inputs)
    _join(folders, folder)
    if count_lines(folder / CONVERSATIONS) == 0:
        raise ValueError(
            f"none of {len(shards)} shards has an answer; see what each of them printed, and run "
            "them again: --shard"
        )
    record.output = file_fingerprint(folder / CONVERSATIONS)
    _finish(record, folder, folders)
    print(f"answers of {len(shards)} shards: joined in {folder}")


def _merge_features(config: DataConfig, target: RunTarget, shards: list[Shard]) -> None:
    """Make one folder of the features of all shards, which stay where they are."""
    folders = [_finished_folder(FEATURES, config, target, shard) for shard in shards]
    parts = []
    for shard, folder in zip(shards, folders, strict=True):
        if _counts(folder).get("tokens"):
            parts.append(shard.name)
    inputs = Inputs(config, target)
    record = _begin(FEATURES, inputs)
    url = inputs.features_url()
    join_features(url, parts)
    _finish(record, inputs.folder(FEATURES), folders)
    print(f"features of {len(shards)} shards: joined in {url}")


def _begin(step: Step, inputs: Inputs) -> StepRecord:
    """Write the record of a step that is about to be joined."""
    folder = inputs.folder(step)
    folder.mkdir(parents=True, exist_ok=True)
    record = StepRecord(step.name, settings_of(step, inputs.config), inputs.fingerprints(step))
    record.write(folder)
    return record


def _finish(record: StepRecord, folder: Path, shards: list[Path]) -> None:
    """Write the record of a step that is joined, with what the shards counted together."""
    sums: Counter[str] = Counter()
    for shard in shards:
        sums.update(_counts(shard))
    record.metrics = dict(sums)
    record.state = DONE
    record.write(folder)


def _counts(folder: Path) -> dict[str, float]:
    """What a finished step counted."""
    record = StepRecord.read(folder)
    assert record is not None, "the step is finished"
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


def _record_folder(config: DataConfig, shard: Shard) -> Path:
    """Where a shard's features have their record."""
    return shard.folder(config.output_dir) / FEATURES.name


def _finished_folder(step: Step, config: DataConfig, target: RunTarget, shard: Shard) -> Path:
    """The folder of a shard's step; ValueError where it is not finished."""
    inputs = Inputs(config, target, shard, in_parts=(step.name,))
    found = look_at_step(step, inputs)
    verdict = found.verdict
    failed = None if found.record is None else failed_last_time(found.record)
    only_failed = failed is not None and verdict.reasons == (failed,)
    if only_failed:
        # A prompt that no server answers must not hold up all others.
        print(f"shard {shard}: {failed}; --shard {shard} asks them again, then --merge")
    elif verdict.action != IS_DONE:
        only = "" if step is ANSWERS else f" --only {step.name}"
        raise ValueError(
            f"shard {shard} is not finished, its {step.name} step {verdict}; run it: "
            f"--shard {shard}{only}"
        )
    return inputs.folder(step)


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
