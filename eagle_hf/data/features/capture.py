"""Writing offline features: the target's states of every conversation, computed once.

Shard by shard: a finished one stands whole under its name, and in the index, before the next one
begins. So an interrupted run loses at most one shard.
"""

import hashlib
import time
import zlib
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from eagle_hf.data.features.capture_folder import CaptureFolder, megabytes
from eagle_hf.data.features.capture_plan import (
    PlannedConversation,
    ShardPlan,
    digest_without,
    plan_shards,
    scan_examples,
)
from eagle_hf.data.features.folder import FORMAT, Folder
from eagle_hf.data.features.shards import Layout, measure_spread
from eagle_hf.data.features.state_sources import Choice, StateSource, TargetSource
from eagle_hf.data.features.target_features import stack_states, store_features
from eagle_hf.data.manifest import library_versions, only_one_run
from eagle_hf.data.rows import Example, SkippedRow, check_lengths, first_reasons
from eagle_hf.provenance import weights_fingerprint
from eagle_hf.target import (
    check_adapters_outside_generate,
    check_teacher,
    evaluating,
    position_limit,
    unwrap,
)


@dataclass
class CaptureReport:
    """What one call of `capture_features` did.

    Attributes:
        written: conversations that this call captured.
        already_there: conversations that an earlier call captured.
        tokens: in the whole folder.
        bytes: of all shards of the folder.
        shards: in the whole folder.
        seconds: of wall-clock time.
        left_out: conversations that an engine left no states of.
    """

    written: int = 0
    already_there: int = 0
    tokens: int = 0
    bytes: int = 0
    shards: int = 0
    seconds: float = 0.0
    left_out: list[SkippedRow] = field(default_factory=list)


def capture_features(
    target: PreTrainedModel,
    examples: Sequence[Example],
    url: str | Path,
    *,
    layer_ids: Sequence[int],
    template_sha256: str,
    dtype: str = "bfloat16",
    batch_tokens: int = 4096,
    shard_bytes: int = 2**30,
    storage_options: dict[str, Any] | None = None,
    progress: bool = True,
    source: StateSource | None = None,
) -> CaptureReport:
    """Write the target features of examples to a folder that `Features` reads.

    Interrupted, run it again with the same arguments: finished shards are kept, missing and
    truncated ones are written anew.

    Args:
        target: the frozen target, with or without a PEFT adapter.
        examples: of `prepare_examples`.
        url: a local folder, or anything fsspec opens. The shards of a remote folder are made in
            the temporary folder ($TMPDIR) first, one at a time.
        layer_ids: layers whose inputs are the aux hidden states, as in `target_states`.
        template_sha256: of the chat template that the examples were rendered with.
        dtype: of the stored states: "float32", "bfloat16" or "int8". int8 keeps a float scale for
            each of a token's states, and the usual size of every dimension (see shards.py).
        batch_tokens: most tokens that the target reads at once, padding included. A longer
            conversation is read alone.
        shard_bytes: most bytes of conversations in a shard.
        storage_options: for the file system.
        progress: print the size, and show a progress bar.
        source: where the states come from, such as `EngineStates(folder)`. None: the target
            computes them here.

    Returns:
        What this call did.

    Raises:
        ValueError: unusable examples or settings; a folder of other examples or settings; another
            run at work in a local folder; a disk that is too small, before the first byte; a disk
            that fills up nevertheless, with the finished shards kept; states that are not finite;
            an engine's states that are not those of this target.
    """
    if batch_tokens < 1 or shard_bytes < 1:
        raise ValueError(
            f"batch_tokens is {batch_tokens} and shard_bytes {shard_bytes}; both must be at least 1"
        )
    check_adapters_outside_generate(target)
    with evaluating(target):
        check_teacher(target, list(layer_ids))
    # 1) Plan everything, which reads the examples once.
    config = unwrap(target).config.get_text_config()
    layout = Layout(config.hidden_size, num_states=len(layer_ids) + 1, dtype=dtype)
    conversations, digest = scan_examples(examples, config.vocab_size)
    lengths = {conversation.id: conversation.length for conversation in conversations}
    check_lengths(lengths, position_limit(target))
    source = source or TargetSource()
    chosen, left_out = _choose(source, target, examples, conversations, layer_ids, progress)
    planned = plan_shards(chosen, layout, batch_tokens, shard_bytes)
    # 2) Say what makes the folder, so that another run can tell whether it may go on.
    settings = _describe_target(target) | {
        "template_sha256": template_sha256,
        "layer_ids": list(layer_ids),
        "dtype": dtype,
        "hidden_size": config.hidden_size,
        "batch_tokens": batch_tokens,
        "shard_bytes": shard_bytes,
        "examples_sha256": digest_without(digest, left_out),
        "states_from": source.name,
        "versions": library_versions(("torch", "transformers", "safetensors", "eagle_hf")),
    }
    # 3) Capture what the folder does not hold yet, which reads the examples once more.
    files = Folder(url, storage_options)
    folder = CaptureFolder(files, settings, planned)
    lock = only_one_run(files.path) if files.is_local else nullcontext()
    with lock, evaluating(target):
        run = _CaptureRun(target, examples, list(layer_ids), layout, folder, source, progress)
        report = run.run()
    report.left_out = left_out
    return report


def _choose(
    source: StateSource,
    target: PreTrainedModel,
    examples: Sequence[Example],
    conversations: list[PlannedConversation],
    layer_ids: Sequence[int],
    progress: bool,
) -> Choice:
    """Choose what is captured, and print what is not."""
    with evaluating(target):
        choice = source.choose(target, examples, conversations, layer_ids)
    if choice.left_out and progress:
        print(
            f"{len(choice.left_out)} of {len(conversations)} conversations are left out, the "
            f"first: {first_reasons(choice.left_out, 'none')}"
        )
    return choice


def _describe_target(target: PreTrainedModel) -> dict[str, Any]:
    """The first fields of the index: its format, and whose states it lists."""
    return {
        "format": FORMAT,
        "step": "features",
        "target": getattr(target, "name_or_path", ""),
        "target_revision": getattr(unwrap(target).config, "_commit_hash", None),
        "target_weights": weights_fingerprint(target),
    }


class _CaptureRun:
    """One run: announce what there is to do, then do it shard by shard."""

    def __init__(
        self,
        target: PreTrainedModel,
        examples: Sequence[Example],
        layer_ids: list[int],
        layout: Layout,
        folder: CaptureFolder,
        source: StateSource,
        progress: bool,
    ):
        self.target = target
        self.examples = examples
        self.layer_ids = layer_ids
        self.layout = layout
        self.folder = folder
        self.source = source
        self.tokens = _count_tokens(folder.planned)
        self.bar = tqdm(
            total=self.tokens, desc="features", unit="token", disable=not progress, delay=1
        )

    def run(self) -> CaptureReport:
        started = time.perf_counter()
        folder = self.folder
        # 1) What is there already? Does the rest fit?
        folder.take_over_finished()
        self._announce()
        folder.check_disk()
        missing = folder.missing_shards()
        report = CaptureReport(
            already_there=sum(len(shard["conversations"]) for shard in folder.finished_shards),
            tokens=self.tokens,
            bytes=_count_bytes(folder.planned),
            shards=len(folder.planned),
        )
        # 2) A folder that cannot be written to shows before the target runs.
        if missing:
            folder.write_index()
        # 3) Each shard enters the index once it stands.
        self.bar.update(self.tokens - _count_tokens(missing))
        for shard in missing:
            folder.add_shard(self._write_shard(shard))
            report.written += len(shard.conversations)
        self.bar.close()
        report.seconds = time.perf_counter() - started
        return report

    def _announce(self) -> None:
        """Print how large the folder will be."""
        if self.bar.disable:
            return
        planned = self.folder.planned
        plural = "s" if len(planned) > 1 else ""
        size = megabytes(_count_bytes(planned))
        text = f"{self.tokens:,} tokens, {size} in {len(planned)} shard{plural}"
        if self.folder.finished_shards:
            left = megabytes(_count_bytes(self.folder.missing_shards()))
            text += f", {left} of them still to write"
        print(text)

    def _write_shard(self, shard: ShardPlan) -> dict[str, Any]:
        """Capture a shard into its file; its entry in the index."""
        header = self.layout.make_header(
            [conversation.length for conversation in shard.conversations]
        )
        digest = hashlib.sha256(header)
        entries = []
        with self.folder.write_whole(shard.name) as file:
            file.write(header)
            for batch in shard.batches:
                for conversation, tensors in zip(batch, self._capture(batch), strict=True):
                    tokens, states = self.layout.encode(tensors)
                    for part in (tokens, states):
                        file.write(part)
                        digest.update(part)
                    checksums = [zlib.crc32(tokens), zlib.crc32(states)]
                    entries.append(
                        {
                            "id": conversation.id,
                            "row": conversation.number,
                            "tokens": conversation.length,
                            "crc32": checksums,
                        }
                    )
                    self.bar.update(conversation.length)
        return {
            "name": shard.name,
            "sha256": digest.hexdigest(),
            "bytes": shard.nbytes,
            "header": {"bytes": len(header), "crc32": zlib.crc32(header)},
            "conversations": entries,
        }

    def _capture(self, batch: list[PlannedConversation]) -> list[dict[str, torch.Tensor]]:
        """Get the states of a batch; what is stored of each conversation, on the CPU."""
        # 1) tokens and masks
        stored: list[dict[str, torch.Tensor]] = []
        for conversation in batch:
            example = self.examples[conversation.number]
            stored.append(
                {
                    "input_ids": torch.as_tensor(example["input_ids"]).long(),  # [S]
                    "loss_mask": torch.as_tensor(example["loss_mask"]).bool(),  # [S]
                }
            )
        # 2) states of the whole batch
        input_ids = [tensors["input_ids"] for tensors in stored]
        features = self.source.read(self.target, self.layer_ids, batch, input_ids)
        if self.layout.dtype == "int8" and self.folder.spread is None:
            states = stack_states(features, self.layout.num_states)
            self.folder.write_spread(measure_spread(states))
        columns = store_features(self.target, features, self.layout, self.folder.spread)
        # 3) to each conversation its own part of them
        lengths = [len(ids) for ids in input_ids]
        for name, column in columns.items():
            parts = column.cpu().split(lengths)  # [N, ...] -> [S, ...] each
            for tensors, part in zip(stored, parts, strict=True):
                tensors[name] = part
        return stored


def _count_tokens(shards: list[ShardPlan]) -> int:
    return sum(shard.tokens for shard in shards)


def _count_bytes(shards: list[ShardPlan]) -> int:
    return sum(shard.nbytes for shard in shards)
