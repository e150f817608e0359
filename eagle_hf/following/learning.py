"""A candidate: the current head, trained for some minutes on conversations of the pool."""

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from transformers import (
    PrinterCallback,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from eagle_hf.data.rows import Example
from eagle_hf.following.settings import FollowSettings
from eagle_hf.following.versions import UNFINISHED
from eagle_hf.head.modeling import Eagle3DraftHead
from eagle_hf.training import Eagle3Trainer, Eagle3TrainingArguments
from eagle_hf.training.clock import TimeBudget
from eagle_hf.training.trainer import DivergedError

CHECKPOINTS = 10  # in the minutes of a training
# Weights, AdamW's two moments, in float32: two checkpoints, the newest beside the one before, and
# the candidate.
COPIES = 2 * 3 + 1
MEGABYTE = 1e6


class Learnt(NamedTuple):
    """What a training did.

    Attributes:
        answer_tokens: learnt tokens of the conversations, each counted once.
        epochs: how often they were read.
        steps: of the optimizer.
        seconds: of the training, over all calls that it took.
    """

    answer_tokens: int
    epochs: float
    steps: int
    seconds: float


class CheckpointByClock(TrainerCallback):
    """Writes a checkpoint whenever another share of the training is over.

    Args:
        progress: how much of it is, 0 to 1.
    """

    def __init__(self, progress: Callable[[], float]):
        self.progress = progress
        self._written = 0

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,
    ) -> None:
        """A resumed training has written its earlier ones."""
        self._written = int(self.progress() * CHECKPOINTS)

    def on_step_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,
    ) -> None:
        """Ask for a checkpoint where one is due."""
        due = int(self.progress() * CHECKPOINTS)
        if due > self._written:
            self._written = due
            control.should_save = True


def check_disk(folder: Path, head: Eagle3DraftHead) -> None:
    """Refuse to begin a training whose files the disk cannot hold.

    Args:
        folder: where they are written.
        head: that is trained.

    Raises:
        ValueError: there is too little space.
    """
    size = sum(parameter.numel() for parameter in head.parameters())
    needed = COPIES * 4 * size
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise ValueError(
            f"{folder} needs {needed / MEGABYTE:.0f} MB for checkpoints and the new version, and "
            f"its disk has {free / MEGABYTE:.0f} MB free; free space, or keep fewer versions, "
            "then run the same command"
        )


def train_candidate(
    target: Any,
    base: Path,
    examples: Sequence[Example],
    settings: FollowSettings,
    folder: Path,
) -> Learnt:
    """Train a head further, and save it.

    Args:
        target: that it drafts for.
        base: the head to begin with.
        examples: to learn from.
        settings: of the training.
        folder: gets `training`, whose newest checkpoint a killed call goes on from, and
            `candidate`, which is there when the training is over.

    Returns:
        What the training did.

    Raises:
        DivergedError: the loss, or a weight, is no finite number any more.
        ValueError: the head does not fit, or the disk is full.
    """
    head = Eagle3DraftHead.from_pretrained(
        base, dtype=torch.float32, tree="saved", vocab_size=settings.vocab_size
    )
    folder.mkdir(parents=True, exist_ok=True)
    check_disk(folder, head)
    shutil.rmtree(folder / "candidate", ignore_errors=True)
    torch.manual_seed(settings.seed)
    trainer = Eagle3Trainer(
        model=head,
        target=target,
        args=training_arguments(settings, folder / "training"),
        train_dataset=list(examples),
    )
    trainer.remove_callback(PrinterCallback)  # the history says what a cycle did
    trainer.add_callback(CheckpointByClock(trainer.progress))
    trainer.train(resume_from_checkpoint="auto")
    check_finite(head)
    save_whole(head, stored_dtype(base), folder / "candidate")
    answer_tokens = sum(sum(example["loss_mask"]) for example in examples)
    return Learnt(
        int(answer_tokens),
        float(trainer.state.epoch or 0.0),
        trainer.state.global_step,
        spent_seconds(trainer),
    )


def spent_seconds(trainer: Eagle3Trainer) -> float:
    """The seconds of a training by the clock, those before a resume included."""
    for callback in trainer.callback_handler.callbacks:
        if isinstance(callback, TimeBudget):
            return callback.spent
    raise AssertionError("a training with max_minutes has a TimeBudget")


def training_arguments(settings: FollowSettings, folder: Path) -> Eagle3TrainingArguments:
    """The arguments of a cycle's training.

    Args:
        settings: of the cycle.
        folder: of the checkpoints.
    """
    values: dict[str, Any] = dict(
        output_dir=str(folder),
        max_minutes=settings.minutes,
        num_train_epochs=settings.epochs,
        learning_rate=settings.learning_rate,
        per_device_train_batch_size=settings.batch_size,
        train_sampling_strategy="group_by_length",
        seed=settings.seed,
        save_strategy="no",  # by the clock
        save_total_limit=1,
        eval_strategy="no",
        eval_prompts=0,
        report_to="none",
        disable_tqdm=True,
        logging_steps=50,
    )
    if not torch.cuda.is_available():
        values["use_cpu"] = True
    return Eagle3TrainingArguments(**values)


def check_finite(head: Eagle3DraftHead) -> None:
    """Refuse a head of which a weight is no finite number.

    Args:
        head: after training.

    Raises:
        DivergedError: one is not.
    """
    for name, parameter in head.named_parameters():
        if not torch.isfinite(parameter).all():
            raise DivergedError(f"{name} holds values that are not finite after the last step")


def stored_dtype(folder: Path) -> torch.dtype:
    """The dtype that a saved head's config names; float32 where it names none."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return getattr(torch, config.get("dtype") or "float32")


def save_whole(head: Eagle3DraftHead, dtype: torch.dtype, folder: Path) -> None:
    """Save a head so that the folder appears whole or not at all.

    Args:
        head: is cast to the dtype.
        dtype: of the saved weights.
        folder: does not exist.

    Raises:
        ValueError: the disk is full.
    """
    scratch = folder.with_name(folder.name + UNFINISHED)
    shutil.rmtree(scratch, ignore_errors=True)
    try:
        head.to(dtype).save_pretrained(scratch)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(scratch, ignore_errors=True)
        raise ValueError(
            f"{folder} could not be written ({error}); free disk space, then run the same command"
        ) from error
    scratch.rename(folder)
