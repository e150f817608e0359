"""`ResumableTrainer`: transformers' Trainer whose runs can end at any moment and go on.

Checkpoints are whole or not there, a folder belongs to one run, the order of the batches can be
found again, and a run can follow the clock instead of counting steps. Nothing here knows what a
draft head is.
"""

import warnings
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import broadcast_object_list
from torch import nn
from transformers import Trainer, TrainerCallback
from transformers import trainer as parent
from transformers.trainer_utils import TrainOutput

from eagle_hf.data.manifest import check_manifest, only_one_run
from eagle_hf.training.arguments import Eagle3TrainingArguments
from eagle_hf.training.batches import LengthGrouped, example_lengths
from eagle_hf.training.checkpoints import check_fresh, last_checkpoint, whole_or_nothing
from eagle_hf.training.clock import TimeBudget, clocked_factor

# Fields of the manifest that a resumed run may change: a target may have moved, libraries may be
# newer. Whether it is the same target shows in the fingerprint of its weights.
MAY_DIFFER = ("target", "versions")
AUTO = "auto"  # resume where there is a checkpoint


class ResumableTrainer(Trainer):
    """Trainer with whole checkpoints, one run a folder, and runs by the clock.

    Args:
        args: the training arguments.
        origin: what a resumed run must have in common with the one it continues. It is written to
            the output folder's manifest.json.
        callbacks: as the parent's.
        kwargs: the parent's other arguments.
    """

    args: Eagle3TrainingArguments

    def __init__(
        self,
        *,
        args: Eagle3TrainingArguments,
        origin: dict,
        callbacks: list[TrainerCallback] | None = None,
        **kwargs: Any,
    ):
        self._origin = origin
        callbacks = list(callbacks or [])
        if args.max_minutes is not None:
            callbacks.append(TimeBudget(args.max_minutes))
        super().__init__(args=args, callbacks=callbacks, **kwargs)
        if args.max_minutes is not None:
            # This bar counts steps, in a notebook as a table; TimeBudget's counts the seconds.
            self.remove_callback(parent.DEFAULT_PROGRESS_CALLBACK)

    def train(
        self,
        resume_from_checkpoint: str | bool | None = None,
        trial: Any = None,
        ignore_keys_for_eval: list[str] | None = None,
    ) -> TrainOutput:
        """Train, in a folder that no other run writes to.

        Args:
            resume_from_checkpoint: True goes on from the newest checkpoint that is whole. "auto"
                does so too, and starts anew where there is none: for runs that are restarted by
                machines. Or the folder of a checkpoint.
            trial: as the parent's.
            ignore_keys_for_eval: as the parent's.

        Returns:
            As the parent's.

        Raises:
            ValueError: another run is writing to the folder, it holds an earlier run's checkpoints
                and none is resumed, or it was made for another target or layer set.
        """
        folder = Path(str(self.args.output_dir))
        if resume_from_checkpoint is True or resume_from_checkpoint == AUTO:
            found = _agree_on(last_checkpoint(folder))
            if found is None and resume_from_checkpoint is True:
                raise ValueError(
                    f"{folder} holds no whole checkpoint to resume from; start without "
                    "resume_from_checkpoint"
                )
            resume_from_checkpoint = found
        if not self.is_world_process_zero():
            return super().train(resume_from_checkpoint, trial, ignore_keys_for_eval)
        if not resume_from_checkpoint:
            check_fresh(folder)
        compared = [name for name in self._origin if name not in MAY_DIFFER]
        with only_one_run(folder):
            check_manifest(folder, self._origin, compared)
            return super().train(resume_from_checkpoint, trial, ignore_keys_for_eval)

    def progress(self) -> float:
        """How much of the run is over, by steps or by the clock, whichever is further: 0 to 1."""
        done = 0.0
        if self.state.max_steps > 0:
            done = self.state.global_step / self.state.max_steps
        for callback in self.callback_handler.callbacks:
            if isinstance(callback, TimeBudget):
                done = max(done, callback.share)
        return min(1.0, done)

    def create_scheduler(
        self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None
    ) -> torch.optim.lr_scheduler.LRScheduler:
        """Make the schedule of the arguments, or with max_minutes one over the clock."""
        if self.args.max_minutes is None or self.lr_scheduler is not None:
            return super().create_scheduler(num_training_steps, optimizer)

        def factor(_: int) -> float:
            return clocked_factor(self.progress())

        optimizer = optimizer or self.optimizer
        assert optimizer is not None, "Trainer makes the optimizer before the scheduler"
        self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        self._created_lr_scheduler = True
        return self.lr_scheduler

    def _get_train_sampler(self, train_dataset: Any = None) -> torch.utils.data.Sampler | None:
        dataset = self.train_dataset if train_dataset is None else train_dataset
        lengths = example_lengths(dataset)
        if self.args.train_sampling_strategy != "group_by_length" or not lengths:
            return super()._get_train_sampler(train_dataset)
        batch_size = self.args.train_batch_size * self.args.gradient_accumulation_steps
        return LengthGrouped(batch_size, lengths, self.args.seed)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        name = f"checkpoint-{self.state.global_step}"
        with whole_or_nothing(Path(self._get_output_dir(trial=trial), name)):
            super()._save_checkpoint(model, trial)

    def _load_from_checkpoint(
        self, resume_from_checkpoint: str, model: nn.Module | None = None
    ) -> None:
        with warnings.catch_warnings():
            # The saved layout keeps the older RoPE schema, which engines read.
            warnings.filterwarnings("ignore", ".rope_scaling. is deprecated", FutureWarning)
            super()._load_from_checkpoint(resume_from_checkpoint, model)


def _agree_on(checkpoint: str | None) -> str | None:
    """The checkpoint that the main process sees: shared storage may show others an older one."""
    return broadcast_object_list([checkpoint])[0]
