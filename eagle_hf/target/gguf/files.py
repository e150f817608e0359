"""Small facts about files."""

from pathlib import Path


def file_state(file: Path) -> tuple[Path, int, int]:
    """What changes when a file is written: (absolute path, bytes, nanoseconds of the change)."""
    status = file.stat()
    return file.resolve(), status.st_size, status.st_mtime_ns


def format_bytes(count: int) -> str:
    """A number of bytes for people, as "1.98 GB" or "538.1 MB"."""
    if count >= 1e9:
        return f"{count / 1e9:.2f} GB"
    return f"{count / 1e6:.1f} MB"
