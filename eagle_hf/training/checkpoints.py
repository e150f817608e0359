"""Checkpoints that are whole, and output folders that belong to one run."""

import json
import shutil
from collections.abc import Generator
from contextlib import contextmanager
from os import PathLike
from pathlib import Path

from safetensors import SafetensorError


def checkpoint_step(folder: Path) -> int:
    """The step in a checkpoint folder's name."""
    return int(folder.name.split("-")[1])


def _is_json(path: Path) -> bool:
    try:
        json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return False
    return True


def last_checkpoint(output_dir: str | PathLike) -> str | None:
    """Find the newest checkpoint that was written to its end.

    Args:
        output_dir: of a training run.

    Returns:
        The checkpoint's folder; None where no checkpoint is whole.
    """
    whole = []
    # The trainer's state is the last file of a checkpoint to be written.
    for path in Path(output_dir).glob("checkpoint-*/trainer_state.json"):
        if _is_json(path):
            whole.append(path.parent)
    if not whole:
        return None
    return str(max(whole, key=checkpoint_step))


def check_fresh(output_dir: str | PathLike) -> None:
    """Refuse a folder that holds another run's checkpoints.

    Rotation would delete them and a resume would mix them.

    Raises:
        ValueError: the folder holds a whole checkpoint.
    """
    found = last_checkpoint(output_dir)
    if found is not None:
        raise ValueError(
            f"output_dir holds {found} of an earlier run; go on from it with "
            "resume_from_checkpoint=True, choose another output_dir, or delete its checkpoints"
        )


@contextmanager
def whole_or_nothing(folder: Path) -> Generator[None, None, None]:
    """Delete a checkpoint that cannot be written to its end, and say where to resume.

    Args:
        folder: the checkpoint that is written inside the block.

    Raises:
        ValueError: it could not be written.
    """
    try:
        yield
    except (OSError, SafetensorError, RuntimeError) as error:
        # torch.save reports a full disk by this name. Other RuntimeErrors have other causes.
        if isinstance(error, RuntimeError) and "PytorchStreamWriter" not in str(error):
            raise
        shutil.rmtree(folder, ignore_errors=True)
        start = "from the start: no earlier checkpoint is there"
        last = last_checkpoint(folder.parent)
        if last is not None:
            start = f"from {last}, which is whole"
        raise ValueError(
            f"{folder.name} could not be written ({error}); free disk space or choose another "
            f"output_dir, then resume {start}"
        ) from error
