"""Training by the clock: a run that ends after so many minutes, on one process or many."""

import math
import time
from typing import Any, cast

import torch
from tqdm.auto import tqdm
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import ExportableState

from eagle_hf.training.arguments import Eagle3TrainingArguments

WARMUP = 0.03  # share of a clocked run
SHOWN = ("loss", "acc_0", "acc_1")  # metrics beside the bar


class TimeBudget(TrainerCallback, ExportableState):
    """Ends a run after `minutes` of training, evaluations not counted, and shows a bar.

    The state is saved with every checkpoint, so a resumed run knows what was spent.

    Args:
        minutes: the budget.
    """

    def __init__(self, minutes: float):
        self.minutes = minutes
        self.spent = 0.0  # seconds
        self._since = 0.0  # when the seconds that are not yet counted began
        self._bar = tqdm(total=0, disable=True)  # none is drawn before training begins

    @property
    def share(self) -> float:
        """Spent share of the budget, 0 upwards."""
        return self.spent / (60 * self.minutes)

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,
    ) -> None:
        """Start the clock and draw the bar."""
        # The checkpoint restored the minutes of the earlier run; a resumed run may be given more.
        minutes = cast(Eagle3TrainingArguments, args).max_minutes
        assert minutes is not None, "a run without max_minutes has no TimeBudget"
        self.minutes = minutes
        self._since = time.monotonic()
        self._bar = tqdm(
            total=60 * self.minutes,
            initial=self.spent,
            desc="training",
            bar_format="{desc}: {percentage:3.0f}%|{bar}| {n:.0f} of {total:.0f} s{postfix}",
            disable=args.disable_tqdm or not state.is_local_process_zero,
        )

    def on_step_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,
    ) -> None:
        """Count the step's seconds; stop the run when the budget is spent."""
        now = time.monotonic()
        seconds = now - self._since
        self._bar.update(min(seconds, 60 * self.minutes - self._bar.n))
        self.spent = broadcast_float(self.spent + seconds)
        self._since = now
        if self.share >= 1:
            control.should_training_stop = True

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,
    ) -> None:
        """Leave the evaluation's seconds out."""
        self._since = time.monotonic()

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Show loss, accuracy and speed beside the bar."""
        logs = logs or {}
        shown = {name: f"{logs[name]:.3f}" for name in SHOWN if name in logs}
        if not shown:
            return
        left = max(0, round(60 * self.minutes - self._bar.n))
        rate = state.global_step / max(self.spent, 1e-9)
        progress = {"left": f"{left} s", "rate": f"{rate:.1f} steps/s", "step": state.global_step}
        self._bar.set_postfix(progress | shown)

    def on_train_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,
    ) -> None:
        """Close the bar."""
        self._bar.close()

    def state(self) -> dict:
        """What a checkpoint keeps of this callback."""
        return {"args": {"minutes": self.minutes}, "attributes": {"spent": self.spent}}


def clocked_factor(done: float) -> float:
    """Share of the peak learning rate when this share of a clocked run is over.

    A short linear warm-up, then a cosine down to 0.
    """
    if done < WARMUP:
        return max(done / WARMUP, 0.01)
    return 0.5 * (1 + math.cos(math.pi * done))


def broadcast_float(value: float) -> float:
    """The first process's value, so that all follow one clock."""
    if not torch.distributed.is_initialized():
        return value
    shared = [value]
    torch.distributed.broadcast_object_list(shared, src=0)
    return shared[0]
