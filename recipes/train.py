"""Train a draft head for a target on conversations that the target wrote, or on features captured from them.

Hardware: any that holds the target; the head needs about 16 bytes a parameter on top (10 M parameters for SmolLM2).
Command:  accelerate launch recipes/train.py --config recipes/configs/smollm2_cpu.yaml
Expected: smollm2_cpu.yaml trains for 5 minutes on 2 CPU cores; the measured tau is in the README.
The head is written to OUTPUT_DIR in the layout that vLLM, SGLang and `from_pretrained` read. `--resume_from_checkpoint last`
goes on from the newest whole checkpoint, to the same bits on the same machine.
"""

from dataclasses import asdict, dataclass, field

import torch
from trl import TrlParser

from eagle_hf import (
    Eagle3DraftHead,
    Eagle3Trainer,
    Eagle3TrainingArguments,
    Features,
    eos_token_ids,
    evenly_spread,
    load_conversations,
    load_target,
    new_head,
    shard_target,
    tokenize_conversations,
    write_run,
)
from eagle_hf.measuring.plans import held_out_acceptance, save_acceptance


@dataclass
class ScriptArguments:
    """What is trained, for whom, on what; the rest is Eagle3TrainingArguments."""

    target: str = field(metadata={"help": "Hub id, folder, .gguf file, or smollm2."})
    dataset: list[str] | None = field(
        default=None,
        metadata={
            "help": "conversations.jsonl, its folder, or a hub dataset with a messages column; or several."
        },
    )
    features: str | None = field(
        default=None,
        metadata={"help": "Instead: folder or fsspec URL that capture_features.py wrote."},
    )
    dataset_split: str = field(default="train", metadata={"help": "Split of a hub dataset."})
    streaming: bool = field(
        default=False,
        metadata={"help": "Read the dataset as it comes, in its own order; needs max_steps."},
    )
    vocabulary_conversations: int = field(
        default=10_000,
        metadata={"help": "With streaming: a new head's draft vocabulary comes from this many."},
    )
    max_conversations: int | None = field(
        default=None,
        metadata={"help": "Train on at most this many, evenly spread; of a stream, the first."},
    )
    eval_conversations: int = field(
        default=0, metadata={"help": "Keep this many conversations back: eval_loss, eval_tau."}
    )
    adapter: str | None = field(
        default=None, metadata={"help": "PEFT adapter laid over the target."}
    )
    target_dtype: str = field(
        default="auto", metadata={"help": "The frozen target's dtype; auto: the fastest here."}
    )
    head: str | None = field(
        default=None, metadata={"help": "Continue from this head; its own vocabulary is kept."}
    )
    draft_vocab_size: int = field(
        default=8192,
        metadata={"help": "Tokens a new head can propose; 0: the target's whole vocabulary."},
    )
    fill_by_rank: bool = field(
        default=False,
        metadata={"help": "Fill the draft vocabulary with unseen tokens in id order."},
    )
    fc_norm: bool = field(
        default=False, metadata={"help": "EAGLE-3.1: an RMSNorm per target state before fc."}
    )
    norm_output: bool = field(
        default=False, metadata={"help": "EAGLE-3.1: feed the normed output back."}
    )
    attn_implementation: str = field(
        default="sdpa",
        metadata={"help": "Of the head: sdpa, flex_attention, flash_attention_2 or eager."},
    )
    lora_rank: int = field(
        default=0,
        metadata={"help": "Train a LoRA of this rank of the head instead; merged at the end."},
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

    def __post_init__(self):
        if (self.dataset is None) == (self.features is None):
            raise ValueError(
                f"dataset is {self.dataset!r} and features {self.features!r}; give one of the two"
            )


def make_head(arguments: ScriptArguments, target, examples):
    """(head, share of the response tokens it can draft): an old one with its own vocabulary, or a new one."""
    if arguments.head:
        head, covered = Eagle3DraftHead.from_pretrained(arguments.head, dtype=torch.float32), None
    else:
        head, covered = new_head(
            target,
            examples,
            arguments.draft_vocab_size or None,
            fill_by_rank=arguments.fill_by_rank,
            fc_norm=arguments.fc_norm,
            norm_output=arguments.norm_output,
        )
        print(
            f"the draft vocabulary of {head.config.draft_vocab_size} covers {covered:.2%} of the response tokens"
        )
    head.set_attn_implementation(arguments.attn_implementation)
    return head, covered


def datasets(arguments: ScriptArguments, training, target, tokenizer):
    """(examples for vocabulary and counts, what is trained on, what is held out)."""
    if arguments.features:
        features = Features(arguments.features)
        trained, held_out = split(len(features), arguments)
        trained = features.select(trained)
        return list(trained.examples()), trained, features.select(held_out) if held_out else None
    rows = load_conversations(arguments.dataset, arguments.dataset_split, arguments.streaming)
    if arguments.streaming:
        held_out, rows = (
            list(rows.take(arguments.eval_conversations)),
            rows.skip(arguments.eval_conversations),
        )
        rows = (
            rows if arguments.max_conversations is None else rows.take(arguments.max_conversations)
        )
        return (
            tokenised(rows.take(arguments.vocabulary_conversations), training, target, tokenizer),
            rows,
            held_out or None,
        )
    examples = tokenised(rows, training, target, tokenizer)
    trained, held_out = split(len(examples), arguments)
    trained = [examples[i] for i in trained]
    return trained, trained, [examples[i] for i in held_out] or None


def split(count: int, arguments: ScriptArguments) -> tuple[list[int], list[int]]:
    """Which of `count` conversations are trained on, and which are held out: evenly spread, files may be sorted by length."""
    held_out = evenly_spread(range(count), min(arguments.eval_conversations, count // 2))
    return evenly_spread(
        sorted(set(range(count)) - set(held_out)), arguments.max_conversations
    ), held_out


def tokenised(rows, training, target, tokenizer) -> list[dict]:
    """The usable conversations as examples; how many were skipped is printed."""
    limit = training.max_length or target.config.get_text_config().max_position_embeddings
    ends = eos_token_ids(target, tokenizer)
    examples, skipped = tokenize_conversations(
        rows, tokenizer, eos_token_ids=ends, max_length=limit
    )
    print(
        f"{len(examples)} conversations, {len(skipped)} skipped{', the first: ' + skipped[0].reason if skipped else ''}"
    )
    return examples


def lora(arguments: ScriptArguments):
    """The PEFT configuration asked for, None for all weights."""
    if not arguments.lora_rank:
        return None
    from peft import LoraConfig

    return LoraConfig(
        r=arguments.lora_rank,
        lora_alpha=2 * arguments.lora_rank,
        target_modules=arguments.lora_targets,
    )


def main():
    parser = TrlParser((ScriptArguments, Eagle3TrainingArguments))
    arguments, training = parser.parse_args_and_config()
    on_cpu = (
        training.use_cpu or not torch.cuda.is_available() or training.shard_target
    )  # a share moves, not the whole
    device = "cpu" if on_cpu else training.device
    target, tokenizer = load_target(
        arguments.target,
        arguments.adapter,
        dtype=arguments.target_dtype,
        device=device,
        work="prefill",
    )
    shard_target(target, training.shard_target, training.device)
    examples, train_dataset, eval_dataset = datasets(arguments, training, target, tokenizer)
    torch.manual_seed(training.seed)
    head, covered = make_head(arguments, target, examples)
    trainer = Eagle3Trainer(
        model=head,
        target=target,
        args=training,
        processing_class=tokenizer,
        train_dataset=train_dataset,
        eval_dataset=eval_dataset,
        peft_config=lora(arguments),
    )
    resume = training.resume_from_checkpoint
    trainer.train(resume_from_checkpoint=True if resume == "last" else resume)
    trainer.save_head(training.output_dir)
    if trainer.is_world_process_zero():
        save_acceptance(training.output_dir, held_out_acceptance(trainer))
        logs = [log for log in trainer.state.log_history if "loss" in log or "eval_loss" in log]
        measured = {
            name: value
            for log in logs
            for name, value in log.items()
            if not name.endswith(("runtime", "per_second"))
        }
        counts = {
            "steps": trainer.state.global_step,
            "epoch": trainer.state.epoch,
            "coverage": covered,
        }
        if not arguments.streaming:  # a stream's length is not known
            counts |= {
                "conversations": len(examples),
                "response_tokens": sum(sum(example["loss_mask"]) for example in examples),
            }
        write_run(
            training.output_dir,
            {"script": asdict(arguments), "training": training.to_dict()},
            measured | counts,
        )


if __name__ == "__main__":
    main()
