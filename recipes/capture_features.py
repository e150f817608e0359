"""Conversations in, features out: the target reads each once, and training reads them from disk.

Interrupted, the same command goes on after the last finished shard. OUTPUT may be an fsspec URL
such as s3://bucket/folder. Its package (s3fs) must be installed; credentials come from the
environment (AWS_ACCESS_KEY_ID, AWS_ENDPOINT_URL, ...).

`--request_engine_states FOLDER` writes the tokens for `engine_states.py`, which has vLLM compute
the states; `--engine_states FOLDER` then takes them from there. `--engine_url` asks a running vLLM.

Hardware: any that holds the target. Disk: 8 H + 13 bytes a token in bfloat16 (SmolLM2-135M:
          4.6 kB), half of that in int8.
Duration: one prefill of every conversation.
Command:  python recipes/capture_features.py --config recipes/configs/smollm2_features.yaml
Expected: OUTPUT/features-00000.safetensors ... and OUTPUT/index.json. The size is printed before
          the target runs.
"""

import json
from dataclasses import asdict, dataclass, field
from typing import Any

from trl import TrlParser

from eagle_hf import Eagle3DraftHead
from eagle_hf.data import (
    EngineServer,
    EngineStates,
    Example,
    StateSource,
    TargetSource,
    TemplateArguments,
    capture_features,
    load_conversations,
    prepare_examples,
    template_sha256,
    write_engine_request,
    write_run,
)
from eagle_hf.evaluation import TargetArguments, open_target
from eagle_hf.target import choose_aux_layer_ids


@dataclass
class CaptureArguments(TargetArguments):
    """Whose states of what are kept, how, and where."""

    dataset: list[str] = field(
        metadata={
            "help": "conversations.jsonl, its folder, or a hub dataset with a messages column; "
            "or several."
        }
    )
    output: str = field(metadata={"help": "Folder or fsspec URL for the features."})
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
    train_on: str = field(
        default="all", metadata={"help": "Answers that are learnt: all, or the last_turn."}
    )
    chat_template_kwargs: dict | str | None = field(
        default=None,
        metadata={
            "help": "Variables of the chat template, a JSON object such as "
            "'{\"enable_thinking\": false}'."
        },
    )
    num_proc: int | None = field(
        default=None, metadata={"help": "Processes to tokenise in; default: one."}
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
    request_engine_states: str | None = field(
        default=None,
        metadata={
            "help": "Instead of capturing: write the tokens to this folder, for engine_states.py."
        },
    )
    engine_states: str | None = field(
        default=None,
        metadata={
            "help": "Take the states that an engine left in this folder; default: the target "
            "computes them here."
        },
    )
    engine_url: str | None = field(
        default=None,
        metadata={"help": "Ask a running vLLM for the states, such as http://localhost:8000."},
    )
    max_steps: int = field(
        default=-1, metadata={"help": "Capture at most this many conversations (smoke tests)."}
    )


def conversations(arguments: CaptureArguments) -> Any:
    """The rows of a JSON-lines file, a folder of them, or a hub dataset, as many as asked for."""
    rows = load_conversations(arguments.dataset, arguments.dataset_split, arguments.streaming)
    bounds = []
    for count in (arguments.max_conversations, arguments.max_steps):
        if count is not None and count > 0:
            bounds.append(count)
    return rows.take(min(bounds)) if bounds else rows


def layer_ids(arguments: CaptureArguments, target: Any) -> list[int]:
    """The layers that the given head reads, else those that a new head would read."""
    ids = None
    if arguments.head:
        ids = Eagle3DraftHead.from_pretrained(arguments.head).config.aux_layer_ids
    return ids or choose_aux_layer_ids(target)


def request_states(
    arguments: CaptureArguments, target: Any, examples: list[Example]
) -> dict[str, Any]:
    """Write down what an engine is to read; what was written."""
    folder = arguments.request_engine_states
    assert folder is not None, "it is asked for"
    ids = layer_ids(arguments, target)
    request = write_engine_request(target, examples, folder, layer_ids=ids)
    return asdict(request) | {"left_out": len(request.left_out)}


def state_source(arguments: CaptureArguments) -> StateSource:
    """Who gives the states: the target here, an engine's folder, or a running engine."""
    if arguments.engine_states and arguments.engine_url:
        raise ValueError("engine_states and engine_url name two sources of states; give one")
    if arguments.engine_states:
        return EngineStates(arguments.engine_states)
    if arguments.engine_url:
        return EngineServer(arguments.engine_url)
    return TargetSource()


def capture(
    arguments: CaptureArguments, target: Any, tokenizer: Any, examples: list[Example]
) -> dict[str, Any]:
    """Write the features; what was written."""
    report = capture_features(
        target,
        examples,
        arguments.output,
        layer_ids=layer_ids(arguments, target),
        dtype=arguments.storage_dtype,
        template_sha256=template_sha256(tokenizer),
        batch_tokens=arguments.batch_tokens,
        source=state_source(arguments),
    )
    return asdict(report) | {"left_out": len(report.left_out)}


def main() -> None:
    (arguments,) = TrlParser((CaptureArguments,)).parse_args_and_config()
    target, tokenizer = open_target(
        arguments.target,
        arguments.adapter,
        tokenizer=arguments.tokenizer,
        dtype=arguments.target_dtype,
        work="prefill",
    )
    examples, skipped = prepare_examples(
        target,
        tokenizer,
        conversations(arguments),
        max_length=arguments.max_length,
        train_on=arguments.train_on,
        template_arguments=TemplateArguments.read(arguments.chat_template_kwargs),
        num_proc=arguments.num_proc,
        verbose=True,
    )
    if arguments.request_engine_states:
        metrics = request_states(arguments, target, examples) | {"skipped": len(skipped)}
        print(json.dumps(metrics))
        return
    metrics = capture(arguments, target, tokenizer, examples) | {"skipped": len(skipped)}
    is_url = "://" in arguments.output
    if is_url:
        print(json.dumps(metrics))
    else:
        write_run(arguments.output, asdict(arguments), metrics)


if __name__ == "__main__":
    main()
