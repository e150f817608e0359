"""The files that a report is made from: found, told apart by their content, and parsed."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from eagle_hf.evaluation.charts.drafters import (
    PairRow,
    PlanCosts,
    RoundTime,
    SpeedRow,
    parse_pairs,
    parse_plan,
    parse_profile,
    parse_speeds,
)
from eagle_hf.evaluation.charts.measured import parse_head, parse_methods
from eagle_hf.evaluation.charts.served import parse_serving
from eagle_hf.evaluation.charts.simulations import parse_simulation
from eagle_hf.evaluation.charts.trained import parse_training

NAMES = (
    "metrics.json",
    "serving.json",
    "trainer_state.json",
    "plan.json",
    "speeds.json",
    "roofline.json",
)
TRAINING = "training"
SHOWN_FACTS = ("machine", "versions", "settings", "asked", "trained")
LONGEST_FACT = 300  # characters


@dataclass(frozen=True)
class Source:
    """One file, parsed.

    Attributes:
        path: as it was given or found.
        kind: what it holds, a key of KINDS.
        label: tells it from others of its kind: the folders in which they differ.
        data: what its parser made of it.
        content: the whole file.
        is_simulated: whether it says that its numbers were computed, not measured.
    """

    path: Path
    kind: str
    label: str
    data: Any
    content: dict[str, Any]
    is_simulated: bool = False

    @property
    def facts(self) -> dict[str, str]:
        """What the file says of where and how it was measured, flat."""
        facts: dict[str, str] = {}
        for name in SHOWN_FACTS:
            _flatten(name, self.content.get(name), facts)
        return facts


@dataclass
class Sources:
    """All files of a report.

    Attributes:
        files: parsed ones.
        left_out: why other files that were found are not used, by their path.
    """

    files: list[Source] = field(default_factory=list)
    left_out: dict[Path, str] = field(default_factory=dict)

    def of(self, kind: str) -> list[Source]:
        """The files of a kind."""
        return [source for source in self.files if source.kind == kind]


def _is_methods(content: dict[str, Any]) -> bool:
    return content.get("schema") == 2 and "rows" in content


def _is_speeds(content: dict[str, Any]) -> bool:
    rows = content.get("rows")
    return bool(rows) and isinstance(rows, list) and "over_plain" in rows[0]


# By kind: how it is recognised, and what parses it.
KINDS: dict[str, tuple[Callable[[dict[str, Any]], bool], Callable[[dict[str, Any]], Any]]] = {
    "serving": (lambda content: content.get("kind") == "serving", parse_serving),
    "methods": (_is_methods, parse_methods),
    "head": (lambda content: isinstance(content.get("settings"), list), parse_head),
    "pairs": (lambda content: "pairs" in content, parse_pairs),
    "profile": (lambda content: "phases_ms" in content, parse_profile),
    "speeds": (_is_speeds, parse_speeds),
    "plan": (lambda content: "costs" in content and "shares" in content, parse_plan),
    "simulation": (lambda content: content.get("kind") == "roofline", parse_simulation),
    TRAINING: (lambda content: "log_history" in content, parse_training),
}

__all__ = ["PairRow", "PlanCosts", "RoundTime", "Source", "Sources", "SpeedRow", "read_sources"]


def read_sources(paths: Sequence[str | Path]) -> Sources:
    """Find and parse what a report is made from.

    Args:
        paths: JSON files, and folders, whose files named as in NAMES are found at any depth. Of
            the checkpoints of one training run the one with most steps is taken.

    Returns:
        The files in the order in which they were given. A file that was only found and is of no
        known kind is left out, with the reason.

    Raises:
        ValueError: a path is missing, a folder holds nothing, a file that was given is of no known
            kind, or one is of a known kind but incomplete.
    """
    sources = Sources()
    found: dict[Path, bool] = {}  # whether the file itself was given
    for path in map(Path, paths):
        for file in _files_of(path):
            found[file] = found.get(file, False) or path.is_file()
    parsed = []
    for file, was_given in found.items():
        content = _read(file)
        kind = _kind_of(content)
        if kind is None and was_given:
            raise ValueError(
                f"{file} is nothing that a report knows; give metrics.json of `eagle-hf evaluate`, "
                "serving.json of `eagle-hf bench-serving`, trainer_state.json, or what `eagle-hf "
                "plan`, `pair`, `profile` or `roofline` write"
            )
        if kind is None:
            sources.left_out[file] = "its content is of no kind that a report knows"
            continue
        parsed.append((file, kind, content, _parse(file, kind, content)))
    parsed = _newest_checkpoints(parsed)
    labels = _labels([file for file, *_ in parsed])
    for (file, kind, content, data), label in zip(parsed, labels, strict=True):
        is_simulated = content.get("simulated") is True
        sources.files.append(Source(file, kind, label, data, content, is_simulated))
    return sources


def _files_of(path: Path) -> list[Path]:
    """The file itself, or what a folder holds."""
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise ValueError(f"{path} does not exist; give a folder or a JSON file")
    files = sorted(file for file in path.rglob("*.json") if file.name in NAMES)
    if not files:
        raise ValueError(f"{path} holds none of {', '.join(NAMES)}; give another folder or a file")
    return files


def _read(file: Path) -> dict[str, Any]:
    """The JSON object in a file."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file} is no JSON ({error}); give another, or remove it") from error
    if not isinstance(content, dict):
        raise ValueError(f"{file} holds a {type(content).__name__}; a report needs a JSON object")
    return content


def _kind_of(content: dict[str, Any]) -> str | None:
    """Which kind a file is of; None for an unknown one."""
    for kind, (recognises, _) in KINDS.items():
        if recognises(content):
            return kind
    return None


def _parse(file: Path, kind: str, content: dict[str, Any]) -> Any:
    """What the kind's parser makes of a file."""
    _, parse = KINDS[kind]
    try:
        return parse(content)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        what = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise ValueError(
            f"{file} looks like a file of kind {kind!r}, but {what}; measure again, or leave it out"
        ) from error


def _newest_checkpoints(parsed: list[tuple]) -> list[tuple]:
    """Without earlier checkpoints of a training run: the newest knows all that they know."""
    longest: dict[Path, tuple] = {}
    for entry in parsed:
        file, kind, content, _ = entry
        if kind != TRAINING:
            continue
        run = _run_folder(file)
        former = longest.get(run)
        if former is None or _steps(content) > _steps(former[2]):
            longest[run] = entry
    kept = []
    for entry in parsed:
        if entry[1] != TRAINING or longest[_run_folder(entry[0])] is entry:
            kept.append(entry)
    return kept


def _run_folder(file: Path) -> Path:
    """The folder of a training run, of a checkpoint's file too."""
    folder = file.parent
    return folder.parent if folder.name.startswith("checkpoint-") else folder


def _steps(content: dict[str, Any]) -> int:
    """How far a training run was when it was saved."""
    return content.get("global_step") or 0


def _labels(files: list[Path]) -> list[str]:
    """Short names by which files are told apart: the folder, and more of it where needed."""
    for depth in range(1, 5):
        labels = []
        for file in files:
            folders = _run_folder(file).resolve().parts[-depth:]
            labels.append("/".join(folders))
        if len(set(zip(labels, (file.name for file in files), strict=True))) == len(files):
            return labels
    return [str(file) for file in files]


def _flatten(name: str, value: Any, facts: dict[str, str]) -> None:
    """Add a value to facts; the entries of an object by their whole names."""
    if isinstance(value, dict):
        for key, part in value.items():
            _flatten(f"{name}: {key}", part, facts)
    elif isinstance(value, list) and any(isinstance(part, dict) for part in value):
        return  # what was measured, not how
    elif value is not None:
        text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
        if text:
            facts[name] = text[:LONGEST_FACT]
