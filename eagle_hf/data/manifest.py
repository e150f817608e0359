"""manifest.json: what made a folder, from what, with which versions; checked before a run goes on.

The target is recognized by its weights, not by its name. A folder that moved holds the same
target, a fine-tuned copy under the old name does not.
"""

import json
import os
import subprocess
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any, TextIO

MANIFEST = "manifest.json"
LOCK = ".lock"


def check_manifest(folder: Path, manifest: dict[str, Any], fields: Iterable[str]) -> None:
    """Write the manifest into a new folder; compare it with the one of an old folder.

    Args:
        folder: is made where it does not exist.
        manifest: of this run.
        fields: which of them must be equal.

    Raises:
        ValueError: a field differs, or the folder holds data without a manifest.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / MANIFEST).exists():
        # Data of unknown origin must not get a manifest that vouches for it.
        has_data = any(folder.glob("*.jsonl")) or any(folder.glob("*.sqlite"))
        if has_data:
            raise ValueError(
                f"{folder} holds data but no {MANIFEST}; choose another folder or delete this one"
            )
        write_manifest(folder, manifest)
        return
    found = read_manifest(folder)
    differing = []
    for name in fields:
        if found.get(name) != manifest[name]:
            differing.append(f"{name} is {found.get(name)!r} there and {manifest[name]!r} now")
    if differing:
        raise ValueError(
            f"{folder} was made by the target {found.get('target')!r} with other settings: "
            f"{'; '.join(differing)}; choose another folder or delete this one"
        )


def read_manifest(folder: Path) -> dict[str, Any]:
    """Read the manifest of a folder.

    Args:
        folder: holds a manifest.json.

    Returns:
        The fields of the manifest.

    Raises:
        ValueError: the file is no JSON object.
    """
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(
            f"{path} is not JSON ({error}); delete the folder and start again"
        ) from error
    if not isinstance(manifest, dict):
        raise ValueError(
            f"{path} holds a {type(manifest).__name__}; delete the folder and start again"
        )
    return manifest


def write_manifest(folder: Path, manifest: dict[str, Any]) -> None:
    """Write a folder's manifest; it appears whole or not at all.

    Args:
        folder: exists.
        manifest: anything that JSON holds.
    """
    write_whole(folder / MANIFEST, json.dumps(manifest, indent=2, ensure_ascii=False) + "\n")


def write_whole(path: Path, text: str) -> None:
    """Write a small file that appears whole or not at all.

    Args:
        path: of the file. Its folder exists.
        text: that it is to hold.
    """
    # Two processes may write it at once, so each has a name of its own.
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)


def write_run(folder: str | Path, settings: dict[str, Any], metrics: dict[str, Any]) -> None:
    """Record a recipe's run: run.json, metrics.json, and the metrics as one JSON line on screen.

    Args:
        folder: a local folder, made where it does not exist.
        settings: of the run; run.json has the code's commit and the versions beside them.
        metrics: what came out.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    # default=str: settings may hold paths and dtypes.
    run = {"settings": settings, "commit": source_commit(), "versions": library_versions()}
    run_text = json.dumps(run, indent=1, default=str) + "\n"
    (folder / "run.json").write_text(run_text, encoding="utf-8")
    metrics_text = json.dumps(metrics, indent=1) + "\n"
    (folder / "metrics.json").write_text(metrics_text, encoding="utf-8")
    print(json.dumps(metrics), flush=True)


def source_commit() -> str | None:
    """The commit of the checkout that this package runs from; None where there is no checkout."""
    run = subprocess.run(
        ["git", "rev-parse", "HEAD"], capture_output=True, text=True, cwd=Path(__file__).parent
    )
    return run.stdout.strip() or None


def library_versions(
    names: Iterable[str] = ("torch", "transformers", "eagle_hf"),
) -> dict[str, str]:
    """Look up installed versions.

    Args:
        names: of packages.

    Returns:
        A version for each; "not installed" for a package that runs from its source folder.
    """
    versions = {}
    for name in names:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "not installed"
    return versions


@contextmanager
def only_one_run(folder: str | Path) -> Generator[None]:
    """Keep every other run from writing to a local folder inside the block.

    The operating system holds the lock, so a killed run leaves none behind. It may leave an empty
    `.lock`, which means nothing.

    Args:
        folder: is made where it does not exist.

    Raises:
        ValueError: another run holds the lock.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder / LOCK):
        try:
            yield
        finally:
            # Still locked here. A run that has just opened it finds it gone, see `_locked`.
            (folder / LOCK).unlink(missing_ok=True)


def _locked(path: Path) -> TextIO:
    """The open file that holds the lock until it is closed."""
    import fcntl  # not on Windows

    while True:
        file = path.open("a")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.close()
            raise ValueError(
                f"another run is writing to {path.parent}; "
                "wait for its end or choose another folder"
            ) from error
        is_still_there = os.fstat(file.fileno()).st_nlink > 0
        if is_still_there:
            return file
        # The former run removed the file between our open and our lock.
        file.close()
