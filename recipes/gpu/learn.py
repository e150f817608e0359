"""Heads trained for some minutes on conversations in memory, by one of several recipes."""

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PrinterCallback, TrainerCallback

from eagle_hf import Eagle3DraftHead, Eagle3Trainer, Eagle3TrainingArguments, new_head
from eagle_hf.data import Example
from eagle_hf.training import plain_fc


@dataclass(frozen=True)
class Recipe:
    """What differs between heads.

    Args:
        learning_rate: its peak; it falls to 0.
        fc_start: see `new_head`.
        passes: of training-time test, in equal shares of the run.
        batch_size: conversations.
    """

    learning_rate: float = 1e-3
    fc_start: str = "random"
    passes: tuple[int, ...] = (1, 2, 4)
    batch_size: int = 16


RECIPES = {
    "shipped": Recipe(),
    "scaled": Recipe(fc_start="scaled"),
    "scaled-fast": Recipe(learning_rate=2e-3, fc_start="scaled"),
    "long": Recipe(fc_start="scaled", passes=(1, 3, 5)),
}


def read_talks(file: Path) -> list[Example]:
    """The conversations that `save_talks` wrote, as tokenised rows."""
    stored = np.load(file)
    ids = torch.from_numpy(stored["ids"].astype(np.int32))
    mask = torch.from_numpy(np.unpackbits(stored["mask"], count=len(ids)).astype(bool))
    rows = []
    lengths = stored["lengths"].tolist()
    parts = zip(ids.split(lengths), mask.split(lengths), strict=True)
    for number, (tokens, is_answer) in enumerate(parts):
        rows.append(Example(id=str(number), input_ids=tokens, loss_mask=is_answer))
    return rows


def save_talks(talks: list, file: Path) -> None:
    """Write conversations in two bytes a token, and a bit that says whether it is an answer's."""
    ids = [token for talk in talks for token in talk.ids]
    mask = [learnt for talk in talks for learnt in talk.mask()]
    np.savez_compressed(
        file,
        ids=np.array(ids, dtype=np.uint16),
        mask=np.packbits(np.array(mask, dtype=bool)),
        lengths=np.array([len(talk.ids) for talk in talks], dtype=np.int32),
        temperatures=np.array([talk.temperature for talk in talks], dtype=np.float32),
    )


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
    head, covered = new_head(target, rows, drafted, fill_by_rank=True, fc_start=recipe.fc_start)
    head = head.to(target.device)
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
    trainer.remove_callback(PrinterCallback)  # the log is in a file, the screen is for results
    result = trainer.train()
    tokens = sum(len(row["input_ids"]) for row in rows)
    made = {"covered": covered, "tokens": tokens, "steps": result.global_step, **result.metrics}
    (folder / "result.json").write_text(json.dumps(made))
    return plain_fc(head), agreement(trainer.state.log_history)
