"""Checkpoints that are whole, and output folders that belong to one run."""

import json
import shutil
from contextlib import contextmanager
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


def last_checkpoint(output_dir) -> str | None:
    """The newest checkpoint that was written to its end: the trainer's state is its last file."""
    whole = [
        path.parent
        for path in Path(output_dir).glob("checkpoint-*/trainer_state.json")
        if _is_json(path)
    ]
    return str(max(whole, key=checkpoint_step)) if whole else None


def check_fresh(output_dir) -> None:
    """Refuse a folder that holds another run's checkpoints: rotation would delete them and a resume would mix them."""
    found = last_checkpoint(output_dir)
    if found is not None:
        raise ValueError(
            f"output_dir holds {found} of an earlier run; go on from it with resume_from_checkpoint=True, "
            "choose another output_dir, or delete its checkpoints"
        )


@contextmanager
def whole_or_nothing(folder: Path):
    """A checkpoint that cannot be written leaves no torn folder behind, and its error says where to go on."""
    try:
        yield
    except (OSError, SafetensorError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "PytorchStreamWriter" not in str(error):
            raise  # no disk space helps against it; torch.save reports a full disk in this way
        shutil.rmtree(folder, ignore_errors=True)
        last = last_checkpoint(folder.parent)
        raise ValueError(
            f"{folder.name} could not be written ({error}); free disk space or choose another output_dir, then resume "
            + (
                f"from {last}, which is whole"
                if last
                else "from the start: no earlier checkpoint is there"
            )
        ) from error
