"""Conversations in, features out: the target reads every conversation once, and training reads its states from disk.

Hardware: any that holds the target. Disk: 8 H + 13 bytes a token in bfloat16 (SmolLM2-135M: 4.6 kB), half of that in int8.
Command:  python recipes/capture_features.py --config recipes/configs/smollm2_features.yaml
Expected: OUTPUT/features-00000.safetensors ..., OUTPUT/index.json; the size is printed before the target runs. Interrupted,
it goes on after the last finished shard. OUTPUT may be an fsspec URL such as s3://bucket/folder; its
package (s3fs) must be installed, and credentials come from the environment (AWS_ACCESS_KEY_ID, AWS_ENDPOINT_URL, ...).
"""

import json
from dataclasses import asdict, dataclass, field

from trl import TrlParser

from eagle_hf import (
    Eagle3Config,
    Eagle3DraftHead,
    capture_features,
    default_device,
    eos_token_ids,
    load_conversations,
    load_target,
    template_sha256,
    tokenize_conversations,
    write_run,
)


@dataclass
class CaptureArguments:
    """Whose states of what are kept, how, and where."""

    target: str = field(metadata={"help": "Hub id, folder, .gguf file, or smollm2."})
    dataset: list[str] = field(
        metadata={
            "help": "conversations.jsonl, its folder, or a hub dataset with a messages column; or several."
        }
    )
    output: str = field(metadata={"help": "Folder or fsspec URL for the features."})
    adapter: str | None = field(
        default=None, metadata={"help": "PEFT adapter laid over the target."}
    )
    target_dtype: str = field(
        default="auto",
        metadata={"help": "The target's dtype while it reads; auto: the fastest here."},
    )
    dataset_split: str = field(default="train", metadata={"help": "Split of a hub dataset."})
    streaming: bool = field(
        default=False, metadata={"help": "Read the dataset as it comes, without a copy on disk."}
    )
    max_conversations: int | None = field(
        default=None, metadata={"help": "Take only this many, from the start."}
    )
    max_length: int | None = field(
        default=None,
        metadata={"help": "Skip longer conversations, in tokens; default: the target's limit."},
    )
    storage_dtype: str = field(
        default="bfloat16", metadata={"help": "Of the stored states: float32, bfloat16 or int8."}
    )
    batch_tokens: int = field(
        default=4096, metadata={"help": "Tokens the target reads at once, padding included."}
    )
    head: str | None = field(
        default=None, metadata={"help": "Keep the layers that this head reads; default: EAGLE-3's."}
    )
    max_steps: int = field(
        default=-1, metadata={"help": "Capture at most this many conversations (smoke tests)."}
    )


def conversations(arguments: CaptureArguments):
    """The rows of a JSON-lines file, a folder of them, or a hub dataset, as many as asked for."""
    rows = load_conversations(arguments.dataset, arguments.dataset_split, arguments.streaming)
    bounds = [
        count
        for count in (arguments.max_conversations, arguments.max_steps)
        if count is not None and count > 0
    ]
    return rows.take(min(bounds)) if bounds else rows


def layer_ids(arguments: CaptureArguments, target) -> list[int]:
    """The streams that the given head reads, else those that a new head would read."""
    own = (
        Eagle3DraftHead.from_pretrained(arguments.head).config.aux_layer_ids
        if arguments.head
        else None
    )
    return own or Eagle3Config.from_target(target).aux_layer_ids


def main():
    (arguments,) = TrlParser((CaptureArguments,)).parse_args_and_config()
    target, tokenizer = load_target(
        arguments.target,
        arguments.adapter,
        dtype=arguments.target_dtype,
        device=default_device(),
        work="prefill",
    )
    limit = arguments.max_length or target.config.get_text_config().max_position_embeddings
    ends = eos_token_ids(target, tokenizer)
    examples, skipped = tokenize_conversations(
        conversations(arguments), tokenizer, eos_token_ids=ends, max_length=limit
    )
    print(
        f"{len(examples)} conversations, {len(skipped)} skipped{', the first: ' + skipped[0].reason if skipped else ''}"
    )
    report = capture_features(
        target,
        examples,
        arguments.output,
        layer_ids=layer_ids(arguments, target),
        dtype=arguments.storage_dtype,
        template_sha256=template_sha256(tokenizer),
        batch_tokens=arguments.batch_tokens,
    )
    metrics = asdict(report) | {"skipped": len(skipped)}
    if "://" in arguments.output:
        print(json.dumps(metrics))
    else:
        write_run(arguments.output, asdict(arguments), metrics)


if __name__ == "__main__":
    main()
