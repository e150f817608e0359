"""Train a draft head for a target, on conversations that the target wrote or on their features.

The head is written to OUTPUT_DIR in the layout that vLLM, SGLang and `from_pretrained` read.
`--resume_from_checkpoint last` goes on from the newest whole checkpoint, to the same bits on the
same machine. `auto` also starts where there is none yet: for runs that torchrun or a cluster
restarts (recipes/cluster).

Hardware: any that holds the target; the head needs about 16 bytes a parameter on top (10 M
          parameters for SmolLM2).
Duration: smollm2_cpu.yaml trains for 5 minutes on 2 CPU cores.
Command:  accelerate launch recipes/train.py --config recipes/configs/smollm2_cpu.yaml
Expected: the measured tau is in docs/benchmarks/index.md.
"""

from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase
from trl import TrlParser

from eagle_hf import Eagle3DraftHead, Eagle3Trainer, Eagle3TrainingArguments, load_target, new_head
from eagle_hf.data import (
    Example,
    Features,
    TemplateArguments,
    conversation_id,
    evenly_spread,
    load_conversations,
    prepare_examples,
    write_run,
)
from eagle_hf.evaluation import TargetArguments
from eagle_hf.measuring import held_out_acceptance, save_acceptance
from eagle_hf.training import lora_config, shard_target

# of the Trainer's log: how long it took, which says nothing about the head
TIMINGS = ("runtime", "per_second")


@dataclass
class ScriptArguments(TargetArguments):
    """What is trained, for whom, on what; the rest is Eagle3TrainingArguments."""

    dataset: list[str] | None = field(
        default=None,
        metadata={
            "help": "conversations.jsonl, its folder, or a hub dataset with a messages column; "
            "or several."
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
    target_dtype: str = field(
        default="auto", metadata={"help": "The frozen target's dtype; auto: the fastest here."}
    )
    head: str | None = field(
        default=None, metadata={"help": "Continue from this head; its own vocabulary is kept."}
    )
    vocab_size: int | None = field(
        default=None,
        metadata={
            "help": "Tokens of the target, where its embeddings were resized after --head was "
            "trained."
        },
    )
    draft_vocab_size: int = field(
        default=8192,
        metadata={"help": "Tokens a new head can propose; 0: the target's whole vocabulary."},
    )
    fill_by_rank: bool = field(
        default=False,
        metadata={"help": "Fill the draft vocabulary with unseen tokens in id order."},
    )
    fc_start: str = field(
        default="random",
        metadata={
            "help": "Of a new head's fc: random, or scaled: it begins as the mean of the target's "
            "states and reads their dimensions over their spread; saved as a plain fc."
        },
    )
    fc_norm: bool = field(
        default=False, metadata={"help": "EAGLE-3.1: an RMSNorm per target state before fc."}
    )
    norm_output: bool = field(
        default=False, metadata={"help": "EAGLE-3.1: feed the normed output back."}
    )
    hidden_act: str = field(
        default="silu",
        metadata={"help": "A new head's activation; engines serve silu alone."},
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

    def __post_init__(self) -> None:
        if (self.dataset is None) == (self.features is None):
            raise ValueError(
                f"dataset is {self.dataset!r} and features {self.features!r}; give one of the two"
            )
        if self.head and self.fc_start != "random":
            raise ValueError(
                f"fc_start is {self.fc_start!r} and head is {self.head!r}, whose fc is trained "
                "already; leave one of them out"
            )
        if self.vocab_size and not self.head:
            raise ValueError(
                f"vocab_size is {self.vocab_size} and head is missing; a new head takes the "
                "target's: leave it out"
            )


@dataclass
class Datasets:
    """What a run reads.

    counted: examples that the draft vocabulary and the counts come from; of a stream, the first.
    trained, held_out: what the Trainer takes.
    """

    counted: list[Example]
    trained: Any
    held_out: Any


def open_datasets(
    arguments: ScriptArguments,
    training: Eagle3TrainingArguments,
    target: Any,
    tokenizer: PreTrainedTokenizerBase,
) -> Datasets:
    """Open features, a stream, or conversations in memory."""
    if arguments.features:
        return from_features(arguments.features, arguments)
    assert arguments.dataset is not None, "the arguments hold one of the two"
    rows = load_conversations(arguments.dataset, arguments.dataset_split, arguments.streaming)
    if arguments.streaming:
        return from_stream(arguments, training, target, tokenizer, rows)
    examples = tokenised(rows, training, target, tokenizer)
    ids = [str(example.get("id", number)) for number, example in enumerate(examples)]
    trained_indices, held_out_indices = split(ids, arguments)
    trained = [examples[index] for index in trained_indices]
    held_out = [examples[index] for index in held_out_indices]
    return Datasets(trained, trained, held_out or None)


def tokenised(
    rows: Any,
    training: Eagle3TrainingArguments,
    target: Any,
    tokenizer: PreTrainedTokenizerBase,
) -> list[Example]:
    """The examples of conversations, as the training arguments say."""
    examples, _ = prepare_examples(
        target,
        tokenizer,
        rows,
        max_length=training.max_length,
        train_on=training.train_on,
        template_arguments=TemplateArguments.read(training.chat_template_kwargs),
        num_proc=training.dataset_num_proc,
        verbose=True,
    )
    return examples


def from_features(folder: str, arguments: ScriptArguments) -> Datasets:
    """Split what capture_features.py wrote."""
    features = Features(folder)
    trained_indices, held_out_indices = split(features.ids, arguments)
    trained = features.select(trained_indices)
    held_out = features.select(held_out_indices) if held_out_indices else None
    return Datasets(list(trained.examples()), trained, held_out)


def from_stream(
    arguments: ScriptArguments,
    training: Eagle3TrainingArguments,
    target: Any,
    tokenizer: PreTrainedTokenizerBase,
    rows: Any,
) -> Datasets:
    """Hold the first rows of a stream out; the Trainer tokenizes the others as they come."""
    held_out = list(rows.take(arguments.eval_conversations))
    rows = rows.skip(arguments.eval_conversations)
    if arguments.max_conversations is not None:
        rows = rows.take(arguments.max_conversations)
    first = rows.take(arguments.vocabulary_conversations)
    counted = tokenised(first, training, target, tokenizer)
    return Datasets(counted, rows, held_out or None)


def split(ids: list[str], arguments: ScriptArguments) -> tuple[list[int], list[int]]:
    """Which examples are trained on and which are held out, by their numbers.

    Conversations are held out whole. Both sides are evenly spread, because files may be sorted by
    length.
    """
    examples_of: dict[str, list[int]] = {}
    for number, name in enumerate(ids):
        examples_of.setdefault(conversation_id(name), []).append(number)
    names = list(examples_of)
    held_out = evenly_spread(names, min(arguments.eval_conversations, len(names) // 2))
    kept_back = set(held_out)
    others = [name for name in names if name not in kept_back]
    trained = evenly_spread(others, arguments.max_conversations)
    return all_examples(trained, examples_of), all_examples(held_out, examples_of)


def all_examples(names: list[str], examples_of: dict[str, list[int]]) -> list[int]:
    """The numbers of all examples of some conversations."""
    numbers = []
    for name in names:
        numbers += examples_of[name]
    return numbers


def make_head(
    arguments: ScriptArguments, target: Any, examples: list[Example]
) -> tuple[Eagle3DraftHead, float | None]:
    """(head, share of the response tokens it can draft): an old one, None, or a new one."""
    covered = None
    if arguments.head:
        head = Eagle3DraftHead.from_pretrained(
            arguments.head, dtype=torch.float32, vocab_size=arguments.vocab_size
        )
    else:
        head, covered = new_head(
            target,
            examples,
            arguments.draft_vocab_size or None,
            fill_by_rank=arguments.fill_by_rank,
            fc_start=arguments.fc_start,
            fc_norm=arguments.fc_norm,
            norm_output=arguments.norm_output,
            hidden_act=arguments.hidden_act,
        )
        print(
            f"the draft vocabulary of {head.config.draft_vocab_size} covers {covered:.2%} of the "
            "response tokens"
        )
    head.set_attn_implementation(arguments.attn_implementation)
    return head, covered


def collect_metrics(
    trainer: Eagle3Trainer,
    arguments: ScriptArguments,
    covered: float | None,
    examples: list[Example],
) -> dict[str, Any]:
    """The newest losses and acceptance, the steps, and what was trained on."""
    metrics: dict[str, Any] = {}
    for log in trainer.state.log_history:
        if "loss" not in log and "eval_loss" not in log:
            continue
        for name, value in log.items():
            if not name.endswith(TIMINGS):
                metrics[name] = value
    metrics["steps"] = trainer.state.global_step
    metrics["epoch"] = trainer.state.epoch
    metrics["coverage"] = covered
    if not arguments.streaming:  # a stream's length is not known
        metrics["conversations"] = len(examples)
        metrics["response_tokens"] = sum(sum(example["loss_mask"]) for example in examples)
    return metrics


def main() -> None:
    parser = TrlParser((ScriptArguments, Eagle3TrainingArguments))
    arguments, training = parser.parse_args_and_config()

    # 1) the frozen target, and what it is trained on
    target, tokenizer = load_target(
        arguments.target,
        arguments.adapter,
        tokenizer=arguments.tokenizer,
        dtype=arguments.target_dtype,
        device=training.target_device,
        work="prefill",
    )
    shard_target(target, training.shard_target, training.device)
    datasets = open_datasets(arguments, training, target, tokenizer)

    # 2) training
    torch.manual_seed(training.seed)
    head, covered = make_head(arguments, target, datasets.counted)
    trainer = Eagle3Trainer(
        model=head,
        target=target,
        args=training,
        processing_class=tokenizer,
        train_dataset=datasets.trained,
        eval_dataset=datasets.held_out,
        peft_config=lora_config(arguments.lora_rank, arguments.lora_targets),
    )
    resume = training.resume_from_checkpoint
    trainer.train(resume_from_checkpoint=True if resume == "last" else resume)

    # 3) the head, how often it is accepted, and the metrics
    trainer.save_head(training.output_dir)
    if trainer.is_world_process_zero():
        save_acceptance(training.output_dir, held_out_acceptance(trainer))
        settings = {"script": asdict(arguments), "training": training.to_dict()}
        metrics = collect_metrics(trainer, arguments, covered, datasets.counted)
        write_run(training.output_dir, settings, metrics)


if __name__ == "__main__":
    main()
