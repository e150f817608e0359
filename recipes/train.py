"""Train a draft head for a target on conversations that the target wrote.

Hardware: any that holds the target; the head needs about 16 bytes a parameter on top (10 M parameters for SmolLM2).
Command:  accelerate launch recipes/train.py --config recipes/configs/smollm2_cpu.yaml
Expected: smollm2_cpu.yaml trains for 5 minutes on 2 CPU cores; the measured tau is in the README.
The head is written to OUTPUT_DIR in the layout that vLLM, SGLang and `from_pretrained` read.
"""

import json
import subprocess
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from datasets import load_dataset
from trl import TrlParser

from eagle_hf import (
    Eagle3DraftHead,
    Eagle3Trainer,
    Eagle3TrainingArguments,
    eos_token_ids,
    load_target,
    new_head,
    tokenize_conversations,
)


@dataclass
class ScriptArguments:
    """What is trained, for whom, on what; the rest is Eagle3TrainingArguments."""

    target: str = field(metadata={"help": "Hub id, folder, .gguf file, or smollm2."})
    dataset: str = field(metadata={"help": "conversations.jsonl, its folder, or a hub dataset with a messages column."})
    dataset_split: str = field(default="train", metadata={"help": "Split of a hub dataset."})
    eval_conversations: int = field(default=0, metadata={"help": "Keep this many conversations back for eval_loss."})
    adapter: str | None = field(default=None, metadata={"help": "PEFT adapter laid over the target."})
    target_dtype: str = field(default="bfloat16", metadata={"help": "The frozen target's dtype."})
    head: str | None = field(default=None, metadata={"help": "Continue from this head; its own vocabulary is kept."})
    draft_vocab_size: int = field(default=8192, metadata={"help": "Tokens a new head can propose."})
    fill_by_rank: bool = field(default=False, metadata={"help": "Fill the draft vocabulary with unseen tokens in id order."})
    fc_norm: bool = field(default=False, metadata={"help": "EAGLE-3.1: an RMSNorm per target state before fc."})
    norm_output: bool = field(default=False, metadata={"help": "EAGLE-3.1: feed the normed output back."})


def conversations(arguments: ScriptArguments):
    """The rows of a JSON-lines file, a folder of them, or a hub dataset."""
    path = Path(arguments.dataset)
    file = path / "conversations.jsonl" if path.is_dir() else path
    if file.is_file():
        return load_dataset("json", data_files=str(file), split="train")
    return load_dataset(arguments.dataset, split=arguments.dataset_split)


def commit() -> str | None:
    """The repository's commit, None outside one."""
    run = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, cwd=Path(__file__).parent)
    return run.stdout.strip() or None


def main():
    parser = TrlParser((ScriptArguments, Eagle3TrainingArguments))
    arguments, training = parser.parse_args_and_config()
    device = "cpu" if training.use_cpu or not torch.cuda.is_available() else training.device
    target, tokenizer = load_target(arguments.target, arguments.adapter, dtype=getattr(torch, arguments.target_dtype), device=device)
    limit = training.max_length or target.config.get_text_config().max_position_embeddings
    ends = eos_token_ids(target, tokenizer)
    examples, skipped = tokenize_conversations(conversations(arguments), tokenizer, eos_token_ids=ends, max_length=limit)
    print(f"{len(examples)} conversations, {len(skipped)} skipped{', the first: ' + skipped[0].reason if skipped else ''}")
    if arguments.head:
        head, covered = Eagle3DraftHead.from_pretrained(arguments.head, dtype=torch.float32), None
    else:
        head, covered = new_head(
            target, examples, arguments.draft_vocab_size, fill_by_rank=arguments.fill_by_rank, fc_norm=arguments.fc_norm,
            norm_output=arguments.norm_output,
        )
        print(f"the draft vocabulary of {arguments.draft_vocab_size} covers {covered:.2%} of the response tokens")
    count = min(arguments.eval_conversations, len(examples) // 2)
    held_out = {i * len(examples) // count for i in range(count)}  # evenly spread: the file may be sorted by length
    trainer = Eagle3Trainer(
        model=head, target=target, args=training, processing_class=tokenizer, train_dataset=[example for i, example in enumerate(examples) if i not in held_out],
        eval_dataset=[examples[i] for i in sorted(held_out)] or None,
    )
    trainer.train(resume_from_checkpoint=training.resume_from_checkpoint)
    trainer.save_model(training.output_dir)
    if trainer.is_world_process_zero():
        record(arguments, training, trainer, covered)


def record(arguments, training, trainer, covered) -> None:
    """run.json (settings and commit), metrics.json, and one JSON line on the screen."""
    folder = Path(training.output_dir)
    settings = {"script": asdict(arguments), "training": training.to_dict(), "commit": commit()}
    (folder / "run.json").write_text(json.dumps(settings, indent=1, default=str) + "\n")
    losses = [log for log in trainer.state.log_history if "loss" in log]
    metrics = {"steps": trainer.state.global_step, "epoch": trainer.state.epoch, "coverage": covered, **(losses[-1] if losses else {})}
    (folder / "metrics.json").write_text(json.dumps(metrics, indent=1) + "\n")
    print(json.dumps(metrics))


if __name__ == "__main__":
    main()
