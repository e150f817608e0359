"""Adapt a head to a domain, or to a target that got an adapter; tau before and after.

The target answers the domain's prompts itself. `eval_prompts` of them, evenly spread, are held out:
never trained on, and answered with the head's drafts before and after. OUTPUT_DIR/head is the
adapted head with the vocabulary and tree of the old one. The same command goes on where it was
interrupted. With `lora_rank` OUTPUT_DIR/adapter is the adapter alone, in megabytes, for
`head.load_adapter`. The checkpoints are adapters then: `eagle-hf merge` makes a head of one.

Hardware: any that holds the target; no more than training a new head.
Duration: 90 seconds on one CPU core with that configuration; far fewer conversations than a new
          head needs.
Command:  python recipes/adapt.py --config recipes/configs/smollm2_adapt.yaml --head quickstart/head
Expected: with that configuration a head trained for 36 seconds on code alone went from tau 1.23 to
          1.35 on eight sums that it never saw.
"""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase
from trl import TrlParser

from eagle_hf import Eagle3DraftHead, Eagle3Trainer, Eagle3TrainingArguments, load_target
from eagle_hf.data import (
    Prompt,
    evenly_spread,
    gather_prompts,
    load_conversations,
    read_prompts,
    write_prompts,
    write_responses,
    write_run,
)
from eagle_hf.evaluation import TargetArguments, VocabularyArguments
from eagle_hf.measuring import held_out_acceptance, save_acceptance
from eagle_hf.training import last_checkpoint, lora_config

COMPARED = ("eval_tau", "eval_alpha", "eval_loss")


@dataclass
class AdaptArguments(TargetArguments, VocabularyArguments):
    """Which head, for whom, for what; the rest is Eagle3TrainingArguments."""

    head: str = field(
        metadata={
            "help": "The head to start from: folder or hub id; its vocabulary and tree are kept."
        }
    )
    prompt_files: list[str] = field(
        metadata={"help": "The domain's prompts: .jsonl files, or names of bundled sets."}
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
        metadata={"help": "Train a LoRA of this rank; 0 trains all weights."},
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


def split_prompts(arguments: AdaptArguments, count: int) -> dict[str, list[Prompt]]:
    """The domain's prompts: `count` held out, evenly spread, and the others.

    Prompts that open as a held-out one does are left out of both.
    """
    prompts = gather_prompts(arguments.prompt_files, arguments.per_file)
    if not 0 < count < len(prompts):
        raise ValueError(
            f"eval_prompts is {count} and there are {len(prompts)} prompts; hold some out and "
            "train on the rest"
        )
    held_out = evenly_spread(prompts, count)
    asked = {prompt["turns"][0] for prompt in held_out}
    trained = [prompt for prompt in prompts if prompt["turns"][0] not in asked]
    return {"trained": trained, "held_out": held_out}


def conversations(
    name: str,
    prompts: list[Prompt],
    arguments: AdaptArguments,
    training: Eagle3TrainingArguments,
    target: Any,
    tokenizer: PreTrainedTokenizerBase,
) -> Any:
    """The target's answers to the prompts; what the folder holds already is not answered again."""
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
                f"{name}: {report.finished} answered now, {report.already_there} before, "
                f"{len(report.skipped)} skipped"
            )
        return load_conversations(folder / "responses")


def remember(path: Path, prompts: list[Prompt]) -> None:
    """Keep the prompts beside their answers.

    Answers to other prompts are refused: those may be the ones that are held out now.
    """
    if path.exists():
        kept, _ = read_prompts(path)
        if kept != prompts:
            raise ValueError(
                f"{path} holds other prompts than those asked for now; choose another output_dir "
                "or delete that folder"
            )
    write_prompts(path, prompts)


def table(before: dict[str, float], after: dict[str, float]) -> str:
    """What the held-out prompts measured, before and after, as Markdown."""
    lines = ["| held out | before | after |", "|---|---|---|"]
    for name in after:
        if name in before and name.startswith(COMPARED):
            shown = name.removeprefix("eval_")
            lines.append(f"| {shown} | {before[name]:.3f} | {after[name]:.3f} |")
    return "\n".join(lines)


def save_adapter(trainer: Eagle3Trainer, folder: Path) -> None:
    """Save the adapter alone, and say how large it is."""
    trainer.save_adapter(str(folder))
    if trainer.is_world_process_zero():
        size = sum(file.stat().st_size for file in folder.iterdir())
        print(f"the adapter is in {folder}: {size / 1e6:.2f} MB")


def collect_metrics(
    trainer: Eagle3Trainer, before: dict[str, float], after: dict[str, float]
) -> dict[str, Any]:
    """Tau and loss before and after, and the counts."""
    return {
        "tau_before": before["eval_tau"],
        "loss_before": before["eval_loss"],
        "tau_after": after["eval_tau"],
        "loss_after": after["eval_loss"],
        "steps": trainer.state.global_step,
        "trained_on": len(trainer.train_dataset),
        "held_out": len(trainer.eval_dataset),
    }


def main() -> None:
    parser = TrlParser((AdaptArguments, Eagle3TrainingArguments))
    arguments, training = parser.parse_args_and_config()

    # 1) the head, the target, and the target's answers to both kinds of prompts
    prompts = split_prompts(arguments, training.eval_prompts)
    head = Eagle3DraftHead.from_pretrained(
        arguments.head, dtype=torch.float32, vocab_size=arguments.vocab_size
    )
    target, tokenizer = load_target(
        arguments.target,
        arguments.adapter,
        tokenizer=arguments.tokenizer,
        dtype=arguments.target_dtype,
        device=training.target_device,
        work="batch",
    )
    answered = {}
    for name, part in prompts.items():
        answered[name] = conversations(name, part, arguments, training, target, tokenizer)

    # 2) training, measured before and after
    torch.manual_seed(training.seed)
    trainer = Eagle3Trainer(
        model=head,
        target=target,
        args=training,
        train_dataset=answered["trained"],
        eval_dataset=answered["held_out"],
        processing_class=tokenizer,
        peft_config=lora_config(arguments.lora_rank, arguments.lora_targets),
    )
    before = trainer.evaluate()
    trainer.train(resume_from_checkpoint=last_checkpoint(training.output_dir))
    after = trainer.evaluate()

    # 3) the head, how often it is accepted, and the metrics
    folder = Path(training.output_dir, "head")
    trainer.save_head(str(folder))
    if arguments.lora_rank:
        save_adapter(trainer, Path(training.output_dir, "adapter"))
    if trainer.is_world_process_zero():
        save_acceptance(folder, held_out_acceptance(trainer))
        print(table(before, after))
        settings = {"script": asdict(arguments), "training": training.to_dict()}
        write_run(training.output_dir, settings, collect_metrics(trainer, before, after))


if __name__ == "__main__":
    main()
