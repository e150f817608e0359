"""Adapt a head to a domain, or to a target that got an adapter: the domain's prompts in, tau before and after out.

Hardware: any that holds the target; no more than training a head anew, and far fewer conversations.
Command:  python recipes/adapt.py --config recipes/configs/smollm2_adapt.yaml --head quickstart/head
Expected: with that configuration, 90 seconds on one CPU core, a head trained for 36 seconds on code alone went from tau 1.23 to 1.35
on eight sums that it never saw.
The target answers the prompts itself. `eval_prompts` of them, evenly spread, are held out: never trained on, and answered
with the head's drafts before and after. OUTPUT_DIR/head is the adapted head, its vocabulary and tree the old one's. The same
command goes on where it was interrupted. With `lora_rank` the checkpoints are adapters: `eagle-hf merge` makes a head of one.
"""

from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from trl import TrlParser

from eagle_hf import (
    Eagle3DraftHead,
    Eagle3Trainer,
    Eagle3TrainingArguments,
    evenly_spread,
    gather_prompts,
    last_checkpoint,
    load_conversations,
    load_target,
    read_prompts,
    write_prompts,
    write_responses,
    write_run,
)
from eagle_hf.measuring.plans import held_out_acceptance, save_acceptance


@dataclass
class AdaptArguments:
    """Which head, for whom, for what; the rest is Eagle3TrainingArguments."""

    target: str = field(metadata={"help": "Hub id, folder, .gguf file, or smollm2."})
    head: str = field(
        metadata={
            "help": "The head to start from: folder or hub id; its vocabulary and tree are kept."
        }
    )
    prompt_files: list[str] = field(
        metadata={"help": "The domain's prompts: .jsonl files, or names of bundled sets."}
    )
    adapter: str | None = field(
        default=None, metadata={"help": "PEFT adapter laid over the target."}
    )
    target_dtype: str = field(
        default="auto", metadata={"help": "The frozen target's dtype; auto: the fastest here."}
    )
    per_file: int | None = field(
        default=None, metadata={"help": "At most this many prompts of each file, evenly spread."}
    )
    max_new_tokens: int = field(default=256, metadata={"help": "Longest response, in tokens."})
    batch_size: int = field(default=32, metadata={"help": "Conversations answered at once."})
    lora_rank: int = field(
        default=0,
        metadata={"help": "Train a LoRA of this rank and merge it; 0 trains all weights."},
    )
    lora_targets: list[str] = field(
        default_factory=lambda: [
            "fc",
            "q_proj",
            "k_proj",
            "v_proj",
            "o_proj",
            "gate_proj",
            "up_proj",
            "down_proj",
        ],
        metadata={"help": "The head's layers that get one."},
    )


def split_prompts(arguments: AdaptArguments, count: int) -> dict[str, list[dict]]:
    """The domain's prompts: `count` held out, evenly spread; trained on the rest, but for those that open as a held-out one does."""
    prompts = gather_prompts(arguments.prompt_files, arguments.per_file)
    if not 0 < count < len(prompts):
        raise ValueError(
            f"eval_prompts is {count} and there are {len(prompts)} prompts; hold some out and train on the rest"
        )
    held_out = evenly_spread(prompts, count)
    asked = {prompt["turns"][0] for prompt in held_out}
    trained = [prompt for prompt in prompts if prompt["turns"][0] not in asked]
    return {"trained": trained, "held_out": held_out}


def conversations(
    name: str, prompts: list[dict], arguments: AdaptArguments, training, target, tokenizer
):
    """The target's answers to the prompts, as conversations; what the folder holds already is not answered again."""
    folder = Path(training.output_dir, "data", name)
    with training.main_process_first(desc="responses"):
        if training.process_index == 0:
            remember(folder / "prompts.jsonl", prompts)
            report = write_responses(
                target,
                tokenizer,
                prompts,
                folder / "responses",
                max_new_tokens=arguments.max_new_tokens,
                batch_size=arguments.batch_size,
            )
            print(
                f"{name}: {report.written} answered now, {report.already_there} before, {len(report.skipped)} skipped"
            )
        return load_conversations(folder / "responses")


def remember(path: Path, prompts: list[dict]) -> None:
    """Keep the prompts beside their answers; refuse answers to other prompts, which may be the ones now held out."""
    if path.exists() and read_prompts(path)[0] != prompts:
        raise ValueError(
            f"{path} holds other prompts than those asked for now; choose another output_dir or delete that folder"
        )
    write_prompts(path, prompts)


def lora(arguments: AdaptArguments):
    """The PEFT configuration asked for, None for all weights."""
    if not arguments.lora_rank:
        return None
    from peft import LoraConfig

    return LoraConfig(
        r=arguments.lora_rank,
        lora_alpha=2 * arguments.lora_rank,
        target_modules=arguments.lora_targets,
    )


def table(before: dict, after: dict) -> str:
    """What the held-out prompts measured, before and after."""
    names = [
        name
        for name in after
        if name in before and name.startswith(("eval_tau", "eval_alpha", "eval_loss"))
    ]
    rows = [
        f"| {name.removeprefix('eval_')} | {before[name]:.3f} | {after[name]:.3f} |"
        for name in names
    ]
    return "\n".join(["| held out | before | after |", "|---|---|---|", *rows])


def main():
    arguments, training = TrlParser(
        (AdaptArguments, Eagle3TrainingArguments)
    ).parse_args_and_config()
    prompts = split_prompts(arguments, training.eval_prompts)
    head = Eagle3DraftHead.from_pretrained(arguments.head, dtype=torch.float32)
    device = "cpu" if training.use_cpu or not torch.cuda.is_available() else training.device
    target, tokenizer = load_target(
        arguments.target,
        arguments.adapter,
        dtype=arguments.target_dtype,
        device=device,
        work="batch",
    )
    rows = {
        name: conversations(name, part, arguments, training, target, tokenizer)
        for name, part in prompts.items()
    }
    torch.manual_seed(training.seed)
    trainer = Eagle3Trainer(
        model=head,
        target=target,
        args=training,
        train_dataset=rows["trained"],
        eval_dataset=rows["held_out"],
        processing_class=tokenizer,
        peft_config=lora(arguments),
    )
    before = trainer.evaluate()
    trainer.train(resume_from_checkpoint=last_checkpoint(training.output_dir))
    after = trainer.evaluate()
    trainer.save_head(str(Path(training.output_dir, "head")))
    if trainer.is_world_process_zero():
        save_acceptance(Path(training.output_dir, "head"), held_out_acceptance(trainer))
        print(table(before, after))
        counts = {
            "steps": trainer.state.global_step,
            "trained_on": len(trainer.train_dataset),
            "held_out": len(trainer.eval_dataset),
        }
        measured = {
            f"{name}_{when}": metrics[f"eval_{name}"]
            for when, metrics in (("before", before), ("after", after))
            for name in ("tau", "loss")
        }
        write_run(
            training.output_dir,
            {"script": asdict(arguments), "training": training.to_dict()},
            measured | counts,
        )


if __name__ == "__main__":
    main()
