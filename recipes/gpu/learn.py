"""Heads trained for some minutes on conversations in memory, by one of several recipes."""

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.utils import parametrize
from transformers import TrainerCallback

from eagle_hf import Eagle3DraftHead, Eagle3Trainer, Eagle3TrainingArguments, new_head
from eagle_hf.data import Example
from eagle_hf.target import aux_layer_ids, target_states

CALIBRATION = 16  # conversations that the spread of the target's states is measured on


@dataclass(frozen=True)
class Recipe:
    """What differs between heads.

    Args:
        learning_rate: its peak; it falls to 0.
        scaled: fc reads every dimension of the target's states over its spread, and begins as the
            mean of the three. The scales are folded into its weights at the end.
        passes: of training-time test, in equal shares of the run.
        batch_size: conversations.
    """

    learning_rate: float = 1e-3
    scaled: bool = False
    passes: tuple[int, ...] = (1, 2, 4)
    batch_size: int = 16


RECIPES = {
    "shipped": Recipe(),
    "scaled": Recipe(scaled=True),
    "scaled-fast": Recipe(learning_rate=2e-3, scaled=True),
    "long": Recipe(scaled=True, passes=(1, 3, 5)),
}


def read_talks(file: Path) -> list[Example]:
    """The conversations that `reference.py` wrote, as tokenised rows."""
    stored = np.load(file)
    ids = torch.from_numpy(stored["ids"].astype(np.int32))
    mask = torch.from_numpy(np.unpackbits(stored["mask"], count=len(ids)).astype(bool))
    rows = []
    lengths = stored["lengths"].tolist()
    parts = zip(ids.split(lengths), mask.split(lengths), strict=True)
    for number, (tokens, is_answer) in enumerate(parts):
        rows.append(Example(id=str(number), input_ids=tokens, loss_mask=is_answer))
    return rows


class Scale(nn.Module):
    """Weights [H, 3H] whose columns are divided by the spread of what they read."""

    spread: torch.Tensor

    def __init__(self, spread: torch.Tensor):
        super().__init__()
        self.register_buffer("spread", spread)

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        return weight / self.spread


@torch.no_grad()
def scale_fc(head: Eagle3DraftHead, target, rows: list[Example]) -> None:
    """Let fc begin as the mean of the target's three states, each dimension over its spread."""
    spreads = []
    layers = aux_layer_ids(target, head.config)
    for row in rows[:CALIBRATION]:
        ids = torch.as_tensor(row["input_ids"]).long().to(target.device)[None]
        states, _ = target_states(target, ids, layers)  # [1, S, 3H]
        spreads.append(states[0, 1:].float().square().mean(0))  # without the sink
    spread = torch.stack(spreads).mean(0).sqrt().clamp(min=1e-3).to(head.device)  # [3H]
    width = head.config.hidden_size
    identity = torch.eye(width, device=head.device) / head.config.num_aux_hidden_states
    head.fc.weight.copy_(identity.repeat(1, head.config.num_aux_hidden_states))
    parametrize.register_parametrization(head.fc, "weight", Scale(spread), unsafe=True)


class Log(TrainerCallback):
    """Writes what the Trainer logs to a file, as it comes."""

    def __init__(self, file: Path):
        self.file = file
        self.started = time.perf_counter()

    def on_log(self, args, state, control, logs=None, **kwargs):
        line = {"step": state.global_step, "seconds": time.perf_counter() - self.started}
        with self.file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line | (logs or {})) + "\n")


def agreement(history: list[dict]) -> float:
    """The newest argmax agreement of a Trainer's log, added up over the passes."""
    for line in reversed(history):
        found = [value for name, value in line.items() if name.startswith("acc_")]
        if found:
            return sum(found)
    return 0.0


def train(
    recipe: Recipe, target, rows: list[Example], minutes: float, folder: Path, drafted: int
) -> tuple[Eagle3DraftHead, float]:
    """(a head of a recipe, trained for some minutes; its newest agreement, over all passes)."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    head, covered = new_head(target, rows, drafted, fill_by_rank=True)
    head = head.to(target.device)
    if recipe.scaled:
        scale_fc(head, target, rows)
    settings: dict[str, Any] = dict(
        output_dir=str(folder / "run"),
        max_minutes=minutes,
        num_train_epochs=1000,
        per_device_train_batch_size=recipe.batch_size,
        learning_rate=recipe.learning_rate,
        warmup_steps=50,
        ttt_curriculum=list(recipe.passes),
        train_sampling_strategy="group_by_length",
        use_cpu=target.device.type == "cpu",
        logging_steps=25 if target.device.type == "cuda" else 2,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    arguments = Eagle3TrainingArguments(**settings)
    trainer = Eagle3Trainer(
        model=head,
        target=target,
        args=arguments,
        train_dataset=rows,
        callbacks=[Log(folder / "log.jsonl")],
    )
    result = trainer.train()
    if recipe.scaled:
        parametrize.remove_parametrizations(head.fc, "weight")
    tokens = sum(len(row["input_ids"]) for row in rows)
    made = {"covered": covered, "tokens": tokens, "steps": result.global_step, **result.metrics}
    (folder / "result.json").write_text(json.dumps(made))
    return head, agreement(trainer.state.log_history)
