"""A file as parts that a slow line carries one by one, joined and checked by their SHA-256."""

import hashlib
import json
from pathlib import Path

NAMES = "pieces.json"


def split(file: Path, parts: int, folder: Path) -> None:
    """Write a file as so many parts, and what they add up to."""
    content = file.read_bytes()
    size = -(-len(content) // parts)
    folder.mkdir(parents=True, exist_ok=True)
    names = []
    for part in range(parts):
        names.append(f"{file.name}.{part}")
        (folder / names[-1]).write_bytes(content[part * size : (part + 1) * size])
    sums = {"name": file.name, "parts": names, "sha256": hashlib.sha256(content).hexdigest()}
    (folder / NAMES).write_text(json.dumps(sums))


def joined(folder: Path) -> Path:
    """The file whose parts lie in a folder."""
    sums = json.loads((folder / NAMES).read_text())
    content = b"".join((folder / name).read_bytes() for name in sums["parts"])
    found = hashlib.sha256(content).hexdigest()
    if found != sums["sha256"]:
        raise ValueError(
            f"the parts in {folder} have the SHA-256 {found}, not {sums['sha256']}; carry them anew"
        )
    file = folder / sums["name"]
    file.write_bytes(content)
    return file
