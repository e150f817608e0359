"""Training by the clock: a run that ends after so many minutes, on one process or many."""

import time

import torch
from tqdm.auto import tqdm
from transformers import TrainerCallback
from transformers.trainer_callback import ExportableState


class TimeBudget(TrainerCallback, ExportableState):
    """Ends a run after `minutes` of training, evaluations not counted, and shows a bar; what was spent survives a resume."""

    def __init__(self, minutes: float):
        self.minutes, self.spent = minutes, 0.0
        self._since = self._bar = None

    @property
    def share(self) -> float:
        """Spent share of the budget, 0 upwards."""
        return self.spent / (60 * self.minutes)

    def on_train_begin(self, args, state, control, **kwargs):
        self.minutes, self._since = (
            args.max_minutes,
            time.monotonic(),
        )  # a resumed run may be given more minutes
        hidden = args.disable_tqdm or not state.is_local_process_zero
        layout = "{desc}: {percentage:3.0f}%|{bar}| {n:.0f} of {total:.0f} s{postfix}"
        self._bar = tqdm(
            total=60 * self.minutes,
            initial=self.spent,
            desc="training",
            bar_format=layout,
            disable=hidden,
        )

    def on_step_end(self, args, state, control, **kwargs):
        now = time.monotonic()
        self._bar.update(min(now - self._since, self._bar.total - self._bar.n))
        self.spent, self._since = broadcast_float(self.spent + now - self._since), now
        if self.share >= 1:
            control.should_training_stop = True

    def on_evaluate(self, args, state, control, **kwargs):
        self._since = time.monotonic()  # evaluation is off the clock

    def on_log(self, args, state, control, logs=None, **kwargs):
        shown = {
            name: f"{value:.3f}"
            for name, value in (logs or {}).items()
            if name in ("loss", "acc_0", "acc_1")
        }
        if shown and self._bar is not None:
            left = max(0, round(self._bar.total - self._bar.n))
            rate = f"{state.global_step / max(self.spent, 1e-9):.1f} steps/s"
            self._bar.set_postfix(
                {"left": f"{left} s", "rate": rate, "step": state.global_step, **shown}
            )

    def on_train_end(self, args, state, control, **kwargs):
        self._bar.close()

    def state(self) -> dict:
        return {"args": {"minutes": self.minutes}, "attributes": {"spent": self.spent}}


def broadcast_float(value: float) -> float:
    """The first process's value, so that all follow one clock."""
    if not torch.distributed.is_initialized():
        return value
    shared = [value]
    torch.distributed.broadcast_object_list(shared, src=0)
    return shared[0]
