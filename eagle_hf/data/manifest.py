"""manifest.json: what made a folder, from what, with which versions; checked before a run goes on.

The target is recognised by its weights, not by its name: a folder that moved is the same target,
a fine-tuned copy under the old name is not.
"""

import json
import os
import subprocess
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path

MANIFEST = "manifest.json"
LOCK = ".lock"


def check_manifest(folder: Path, manifest: dict, fields: Iterable[str]) -> None:
    """Write the manifest into a new folder; in an old one, refuse unless `fields` are equal."""
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / MANIFEST).exists():
        if any(folder.glob("*.jsonl")):
            raise ValueError(
                f"{folder} holds data but no {MANIFEST}; choose another folder or delete this one"
            )
        write_manifest(folder, manifest)
        return
    found = read_manifest(folder)
    differing = [
        f"{name} is {found.get(name)!r} there and {manifest[name]!r} now"
        for name in fields
        if found.get(name) != manifest[name]
    ]
    if differing:
        raise ValueError(
            f"{folder} was made by the target {found.get('target')!r} with other settings: {'; '.join(differing)}; "
            "choose another folder or delete this one"
        )


def read_manifest(folder: Path) -> dict:
    """The folder's manifest; ValueError when it cannot be read."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(
            f"{folder / MANIFEST} is not JSON ({error}); delete the folder and start again"
        ) from error
    if not isinstance(manifest, dict):
        raise ValueError(
            f"{folder / MANIFEST} holds a {type(manifest).__name__}; delete the folder and start again"
        )
    return manifest


def write_manifest(folder: Path, manifest: dict) -> None:
    """The manifest appears whole or not at all."""
    temporary = folder / f"{MANIFEST}.{os.getpid()}.tmp"
    temporary.write_text(
        json.dumps(manifest, indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
    )
    os.replace(temporary, folder / MANIFEST)


def write_run(folder: str | Path, settings: dict, metrics: dict) -> None:
    """run.json (settings and the code's commit) and metrics.json in a local folder; one JSON line on the screen."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    made_by = {"settings": settings, "commit": source_commit(), "versions": library_versions()}
    (folder / "run.json").write_text(
        json.dumps(made_by, indent=1, default=str) + "\n", encoding="utf-8"
    )
    (folder / "metrics.json").write_text(json.dumps(metrics, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(metrics), flush=True)


def source_commit() -> str | None:
    """The commit of the checkout this package runs from, None where it runs from no checkout."""
    run = subprocess.run(
        ["git", "rev-parse", "HEAD"], capture_output=True, text=True, cwd=Path(__file__).parent
    )
    return run.stdout.strip() or None


def library_versions(
    names: Iterable[str] = ("torch", "transformers", "eagle_hf"),
) -> dict[str, str]:
    """The installed versions; "not installed" for a package that runs from its source folder."""
    versions = {}
    for name in names:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "not installed"
    return versions


@contextmanager
def only_one_run(folder: str | Path) -> Iterator[None]:
    """Nobody else writes to this local folder, made where it is new, inside the block; ValueError where somebody does.

    The operating system holds the lock, so a killed run leaves none behind. It may leave an empty `.lock`, which means nothing.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder / LOCK):
        try:
            yield
        finally:
            (folder / LOCK).unlink(missing_ok=True)


def _locked(path: Path):
    """The open file that holds the lock until it is closed."""
    import fcntl  # not on Windows

    while True:
        file = path.open("a")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.close()
            raise ValueError(
                f"another run is writing to {path.parent}; wait for its end or choose another folder"
            ) from error
        if os.fstat(file.fileno()).st_nlink:
            return file
        file.close()  # the former run removed it between our open and our lock
