"""What test_scale_out.py starts with `accelerate launch`: short runs, logged as one JSON line.

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

STEPS = 20
ROWS = 24
GLOBAL_BATCH = 8
ZERO3 = Path(__file__).parents[2] / "recipes" / "configs" / "deepspeed" / "zero3_target.json"
EVALUATED = dict(eval_strategy="steps", eval_prompts=4, eval_new_tokens=8)
SHORT = dict(max_steps=6, eval_steps=6, save_strategy="steps", save_steps=3, **EVALUATED)
VARIANTS = {
    "plain": dict(eval_steps=STEPS, **EVALUATED),
    "pooled": dict(gradient_accumulation_steps=2),
    "packed": dict(packing=True),
    # An incomplete batch would be filled up, each process its own.
    "uneven": dict(dataloader_drop_last=True),
    "streamed": {},
    "lora": {},
    "checkpointed": dict(gradient_checkpointing=True),
    "whole": SHORT,
    "fsdp2": dict(shard_target="fsdp2", **SHORT),
    "resumed": dict(shard_target="fsdp2", **SHORT),  # from the third step of "whole"
}
if find_spec("deepspeed"):
    VARIANTS["zero3"] = dict(shard_target=str(ZERO3), **SHORT)


def conversations():
    """Tokenised rows of 10 to 33 tokens, so that processes learn different numbers of them."""
    generator = torch.Generator().manual_seed(0)
    for i in range(ROWS):
        ids = torch.randint(3, 31, (10 + i,), generator=generator)
        yield {"id": f"c{i}", "input_ids": ids.tolist(), "loss_mask": [0] * 4 + [1] * (6 + i)}


def elements(parameter):
    """(elements of a parameter in this process, elements in all)."""
    if isinstance(parameter, DTensor):  # fsdp2
        return parameter.to_local().numel(), parameter.numel()
    if hasattr(parameter, "ds_tensor"):  # ZeRO-3
        return parameter.ds_tensor.numel(), parameter.ds_numel
    return parameter.numel(), parameter.numel()


def share_held(target):
    """How much of the target's layers lies in this process."""
    held = 0
    whole = 0
    for parameter in decoder_layers(target).parameters():
        in_process, in_all = elements(parameter)
        held += in_process
        whole += in_all
    return held / whole


def arguments(name, folder, processes):
    """The arguments of a variant; the global batch is the same for any number of processes."""
    batch_size = GLOBAL_BATCH // processes
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
        per_device_eval_batch_size=batch_size,
    )
    settings |= VARIANTS[name]
    pooled = settings.get("gradient_accumulation_steps", 1)
    settings["per_device_train_batch_size"] = batch_size // pooled
    return Eagle3TrainingArguments(**settings)


def dataset(name):
    """What a variant is trained on."""
    if name == "streamed":
        return IterableDataset.from_generator(conversations).shuffle(seed=0, buffer_size=10)
    rows = list(conversations())
    return rows[:21] if name == "uneven" else rows


def gathered(value):
    """The value of every process."""
    values = [None] * int(os.environ["WORLD_SIZE"])
    torch.distributed.all_gather_object(values, value)
    return values


def run(name, folder):
    """One variant's logs, and by process what test_scale_out.py compares.

    read: the conversations of each batch. held: the share of the target. sums: of the head.
    """
    processes = int(os.environ["WORLD_SIZE"])
    args = arguments(name, folder, processes)
    target = tiny_target(dtype=torch.float32)
    head = tiny_head(target)
    lora = LoraConfig(r=4, target_modules=["fc", "q_proj", "lm_head"])
    read = []

    def note_and_collate(examples):
        read.append([example["id"] for example in examples])
        return collate(examples, packing=args.packing)

    trainer = Eagle3Trainer(
        model=head,
        target=target,
        args=args,
        data_collator=note_and_collate,
        train_dataset=dataset(name),
        eval_dataset=list(conversations())[:16],
        peft_config=lora if name == "lora" else None,
    )
    checkpoint = str(folder / f"{processes}-whole" / "checkpoint-3")
    trainer.train(resume_from_checkpoint=checkpoint if name == "resumed" else None)
    return {
        "logs": trainer.state.log_history,
        "read": gathered(read),
        "held": gathered(share_held(target)),
        "sums": gathered(sum(p.double().sum().item() for p in head.parameters())),
    }


if __name__ == "__main__":
    torch.set_num_threads(1)
    results = {}
    for name in sys.argv[2:]:
        if name in VARIANTS:
            results[name] = run(name, Path(sys.argv[1]))
    if os.environ["RANK"] == "0":
        print(json.dumps(results), flush=True)
    torch.distributed.barrier()
    os._exit(0)  # gloo's threads now and then abort an interpreter that takes its time to end
