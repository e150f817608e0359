"""What test_interruptions.py starts and kills: killed_run.py OUTPUT_FOLDER [resume]

A short run with whatever a resume must find again: a curriculum, a schedule, an order of batches,
pooled batches, and evaluations in between.
"""

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from tiny import tiny_head, tiny_target

from eagle_hf import Eagle3Trainer, Eagle3TrainingArguments

torch.set_num_threads(1)
SETTINGS = dict(
    per_device_train_batch_size=4,
    gradient_accumulation_steps=2,
    max_steps=40,
    learning_rate=1e-2,
    warmup_steps=5,
    lr_scheduler_type="cosine",
    ttt_curriculum=[1, 3],
    train_sampling_strategy="group_by_length",
    save_steps=3,
    save_total_limit=2,
    eval_strategy="steps",
    eval_steps=5,
    eval_prompts=2,
    eval_new_tokens=8,
    logging_steps=5,
    use_cpu=True,
    report_to="none",
    disable_tqdm=True,
)


def conversations():
    """Twenty rows of 16 to 35 random tokens."""
    generator = torch.Generator().manual_seed(0)
    rows = []
    for i in range(20):
        ids = torch.randint(3, 31, (16 + i,), generator=generator).tolist()
        rows.append({"input_ids": ids, "loss_mask": [0] * 4 + [1] * (12 + i)})
    return rows


def main(folder, resume):
    target = tiny_target(dtype=torch.float32)
    rows = conversations()
    trainer = Eagle3Trainer(
        model=tiny_head(target),
        target=target,
        args=Eagle3TrainingArguments(output_dir=folder, **SETTINGS),
        train_dataset=rows[2:],
        eval_dataset=rows[:2],
    )
    trainer.train(resume_from_checkpoint=resume)
    trainer.save_head(folder + "/head")


if __name__ == "__main__":
    main(sys.argv[1], resume=True if len(sys.argv) > 2 else None)
