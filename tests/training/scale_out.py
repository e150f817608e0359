"""What test_scale_out.py starts with `accelerate launch`: short runs whose logs are printed as one JSON line.

scale_out.py OUTPUT_FOLDER VARIANT ...
"""

import json
import os
import sys
from importlib.util import find_spec
from pathlib import Path

import torch
from datasets import IterableDataset
from peft import LoraConfig
from torch.distributed.tensor import DTensor

sys.path.insert(0, str(Path(__file__).parents[1]))

from tiny import tiny_head, tiny_target

from eagle_hf import Eagle3Trainer, Eagle3TrainingArguments
from eagle_hf.target import decoder_layers
from eagle_hf.training.batches import collate

STEPS, ROWS, GLOBAL_BATCH = 20, 24, 8
ZERO3 = Path(__file__).parents[2] / "recipes" / "configs" / "deepspeed" / "zero3_target.json"
EVALUATED = dict(eval_strategy="steps", eval_prompts=4, eval_new_tokens=8)
SHORT = dict(max_steps=6, eval_steps=6, save_strategy="steps", save_steps=3, **EVALUATED)
VARIANTS = {
    "plain": dict(eval_steps=STEPS, **EVALUATED),
    "pooled": dict(gradient_accumulation_steps=2),
    "packed": dict(packing=True),
    "uneven": dict(
        dataloader_drop_last=True
    ),  # an incomplete batch would be filled up, each process its own
    "streamed": {},
    "lora": {},
    "checkpointed": dict(gradient_checkpointing=True),
    "whole": SHORT,
    "fsdp2": dict(shard_target="fsdp2", **SHORT),
    "resumed": dict(shard_target="fsdp2", **SHORT),  # from the third step of "whole"
} | ({"zero3": dict(shard_target=str(ZERO3), **SHORT)} if find_spec("deepspeed") else {})


def conversations():
    """Tokenised rows of 10 to 33 tokens, so that processes learn different numbers of them."""
    generator = torch.Generator().manual_seed(0)
    for i in range(ROWS):
        ids = torch.randint(3, 31, (10 + i,), generator=generator)
        yield {"id": f"c{i}", "input_ids": ids.tolist(), "loss_mask": [0] * 4 + [1] * (6 + i)}


def share_held(target) -> float:
    """How much of the target's layers lies in this process."""
    held = whole = 0
    for parameter in decoder_layers(target).parameters():
        own = (
            parameter.to_local()
            if isinstance(parameter, DTensor)
            else getattr(parameter, "ds_tensor", parameter)
        )
        held, whole = held + own.numel(), whole + getattr(parameter, "ds_numel", parameter.numel())
    return held / whole


def run(name: str, folder: Path) -> dict:
    """One variant's logs and, by process: the conversations of each batch, the share of the target held, the head's sum."""
    processes, read = int(os.environ["WORLD_SIZE"]), []
    settings = dict(
        output_dir=str(folder / f"{processes}-{name}"),
        max_steps=STEPS,
        logging_steps=1,
        learning_rate=1e-2,
        ttt_length=2,
        use_cpu=True,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
        bf16=False,
        per_device_eval_batch_size=GLOBAL_BATCH // processes,
    )
    args = Eagle3TrainingArguments(**settings | VARIANTS[name])
    args.per_device_train_batch_size = GLOBAL_BATCH // processes // args.gradient_accumulation_steps

    def noting(examples):
        read.append([example["id"] for example in examples])
        return collate(examples, packing=args.packing)

    target, rows = tiny_target(dtype=torch.float32), list(conversations())
    head = tiny_head(target)
    stream = IterableDataset.from_generator(conversations).shuffle(seed=0, buffer_size=10)
    trained_on = {"streamed": stream, "uneven": rows[:21]}.get(name, rows)
    trainer = Eagle3Trainer(
        model=head,
        target=target,
        args=args,
        data_collator=noting,
        train_dataset=trained_on,
        eval_dataset=rows[:16],
        peft_config=LoraConfig(r=4, target_modules=["fc", "q_proj", "lm_head"])
        if name == "lora"
        else None,
    )
    trainer.train(
        resume_from_checkpoint=str(folder / f"{processes}-whole" / "checkpoint-3")
        if name == "resumed"
        else None
    )
    gathered = [None] * processes
    torch.distributed.all_gather_object(
        gathered,
        (read, share_held(target), sum(p.double().sum().item() for p in head.parameters())),
    )
    return {"logs": trainer.state.log_history} | dict(zip(("read", "held", "sums"), zip(*gathered)))


if __name__ == "__main__":
    torch.set_num_threads(1)
    results = {name: run(name, Path(sys.argv[1])) for name in sys.argv[2:] if name in VARIANTS}
    if os.environ["RANK"] == "0":
        print(json.dumps(results), flush=True)
    torch.distributed.barrier()
    os._exit(0)  # gloo's threads now and then abort an interpreter that takes its time to end
