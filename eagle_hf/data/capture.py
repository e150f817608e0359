"""Writing offline features: the frozen target reads every conversation once, and its states are kept.

Shard by shard: a finished one stands whole under its name, and in the index, before the next one begins.

N tokens of a batch without padding, S sequence, H hidden.
"""

import errno
import hashlib
import json
import os
import shutil
import tempfile
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save
from torch.nn.utils.rnn import pad_sequence
from tqdm.auto import tqdm

from eagle_hf.data.capture_plan import Row, ShardPlan, plan_shards, scan_examples
from eagle_hf.data.features import FORMAT, INDEX, SPREAD, Folder
from eagle_hf.data.manifest import library_versions, only_one_run
from eagle_hf.data.sampling import evaluating
from eagle_hf.data.shards import Layout, dequantise, measure_spread, quantise
from eagle_hf.provenance import weights_fingerprint
from eagle_hf.target import capture_aux, next_token_summary, target_states, unwrap

SETTINGS = (
    "target_weights",
    "template_sha256",
    "layer_ids",
    "dtype",
    "batch_tokens",
    "shard_bytes",
    "examples_sha256",
)
INDEX_BYTES = 400  # at most, per conversation, for the index and its next version


@dataclass
class CaptureReport:
    """What one call of `capture_features` did; tokens, bytes and shards are the whole folder's."""

    written: int = 0  # conversations
    already_there: int = 0  # conversations
    tokens: int = 0
    bytes: int = 0  # of all shards
    shards: int = 0
    seconds: float = 0.0


def capture_features(
    target,
    examples: Sequence[Mapping],
    url,
    *,
    layer_ids: Sequence[int],
    template_sha256: str,
    dtype: str = "bfloat16",
    batch_tokens: int = 4096,
    shard_bytes: int = 2**30,
    storage_options: dict | None = None,
    progress: bool = True,
) -> CaptureReport:
    """Write what the target makes of `examples` (`id`, `input_ids`, `loss_mask`) to a folder that `Features` reads.

    url: a folder or any fsspec URL, storage_options for its file system. What goes to a remote one is made, a shard at a
    time, in the temporary folder ($TMPDIR) first. layer_ids: the streams to keep, as in `target_states`.
    dtype: of the stored states, "float32", "bfloat16" or "int8". int8 keeps a float scale for every token and stream
    (three aux streams and the final state have a scale each) and a spread for every dimension.
    batch_tokens: read at once, padding included; a longer conversation is read alone.

    Interrupted, run it again with the same arguments: finished shards are kept, missing and truncated ones are written
    anew. ValueError: a folder of other examples or settings; a disk too small, before the first byte; a disk that
    fills up nevertheless, with the finished shards kept; states that are not finite; another run at work in a local folder.
    """
    if batch_tokens < 1 or shard_bytes < 1:
        raise ValueError(
            f"batch_tokens is {batch_tokens} and shard_bytes {shard_bytes}; both must be at least 1"
        )
    with capture_aux(target, list(layer_ids)):
        pass  # refuses layers that the target does not have
    config = unwrap(target).config.get_text_config()
    layout = Layout(config.hidden_size, len(layer_ids) + 1, dtype)
    rows, digest = scan_examples(examples, config.vocab_size)
    shards, folder = (
        plan_shards(rows, layout, batch_tokens, shard_bytes),
        Folder(url, storage_options),
    )
    index = {
        "format": FORMAT,
        "step": "features",
        "target": getattr(target, "name_or_path", ""),
        "target_revision": getattr(unwrap(target).config, "_commit_hash", None),
        "target_weights": weights_fingerprint(target),
        "template_sha256": template_sha256,
        "layer_ids": list(layer_ids),
        "dtype": dtype,
        "hidden_size": config.hidden_size,
        "batch_tokens": batch_tokens,
        "shard_bytes": shard_bytes,
        "examples_sha256": digest,
        "versions": library_versions(("torch", "transformers", "safetensors", "eagle_hf")),
        "complete": False,
        "shards": [],
    }
    with only_one_run(folder.path) if folder.is_local else nullcontext(), evaluating(target):
        return _Capture(target, examples, layout, shards, folder, index, progress).run()


class _Capture:
    """One run: look at what is there, make sure that the rest fits, write it shard by shard."""

    def __init__(
        self,
        target,
        examples,
        layout: Layout,
        shards: list[ShardPlan],
        folder: Folder,
        index: dict,
        progress: bool,
    ):
        self.target, self.examples, self.layout = target, examples, layout
        self.shards, self.folder, self.index = shards, folder, index
        self.spread: torch.Tensor | None = None
        self.bar = tqdm(
            total=self._tokens(shards), desc="features", unit="token", disable=not progress, delay=1
        )

    def run(self) -> CaptureReport:
        started = time.perf_counter()
        self._find_finished()
        missing = self._announce()
        self._check_disk(missing)
        done = sum(len(shard["conversations"]) for shard in self.index["shards"])
        report = CaptureReport(
            already_there=done, tokens=self._tokens(self.shards), shards=len(self.shards)
        )
        if missing:
            self._write_index()  # a folder that cannot be written shows before the target runs
        self.bar.update(report.tokens - self._tokens(missing))
        for shard in missing:
            self.index["shards"] = sorted(
                [*self.index["shards"], self._write_shard(shard)], key=lambda entry: entry["name"]
            )
            self.index["complete"] = len(self.index["shards"]) == len(self.shards)
            self._write_index()
            report.written += len(shard.rows)
        self.bar.close()
        report.bytes, report.seconds = (
            sum(shard.bytes for shard in self.shards),
            time.perf_counter() - started,
        )
        return report

    def _tokens(self, shards: list[ShardPlan]) -> int:
        return sum(row.length for shard in shards for row in shard.rows)

    def _find_finished(self) -> None:
        """Take over the index of an earlier run, without the shards that are missing or truncated by now."""
        found, sizes = self.folder.index(), self.folder.sizes()
        if found is None and any(name.endswith(".safetensors") for name in sizes):
            raise ValueError(
                f"{self.folder.url} holds safetensors files but no {INDEX}; choose another folder or delete this one"
            )
        if found is None or not found["shards"]:
            return
        differing = [
            f"{name} is {found[name]} there and {self.index[name]} now"
            for name in SETTINGS
            if found[name] != self.index[name]
        ]
        if differing:
            raise ValueError(
                f"{self.folder.url} holds features of the target {found['target']!r} made with other settings: "
                f"{'; '.join(differing)}; choose another folder or delete this one"
            )
        shards = [shard for shard in found["shards"] if sizes.get(shard["name"]) == shard["bytes"]]
        self.index = found | {"shards": shards, "complete": len(shards) == len(self.shards)}
        if self.layout.dtype == "int8":
            self.spread = self.folder.spread(found)

    def _announce(self) -> list[ShardPlan]:
        """Say how large all will be; the shards still to be written."""
        finished = {shard["name"] for shard in self.index["shards"]}
        missing = [shard for shard in self.shards if shard.name not in finished]
        count, size = len(self.shards), _megabytes(sum(shard.bytes for shard in self.shards))
        text = f"{self._tokens(self.shards):,} tokens, {size} in {count} shard{'s' * (count > 1)}"
        if finished:
            text += f", {_megabytes(sum(shard.bytes for shard in missing))} of them still to write"
        if not self.bar.disable:
            print(text)
        return missing

    def _check_disk(self, missing: list[ShardPlan]) -> None:
        if not self.folder.is_local or not missing:
            return
        for leftover in Path(self.folder.path).glob(
            ".*.tmp"
        ):  # of a run that was killed: nobody else is here
            leftover.unlink()
        needed = sum(shard.bytes for shard in missing) + INDEX_BYTES * sum(
            len(shard.rows) for shard in self.shards
        )
        free = shutil.disk_usage(self.folder.path).free
        if needed > free:
            raise ValueError(
                f"{self.folder.url} needs {_megabytes(needed)} more and its disk has {_megabytes(free)} free; free space, choose "
                "another folder, store int8, or keep fewer conversations"
            )

    def _write_shard(self, shard: ShardPlan) -> dict:
        """Its entry in the index, once it stands whole under its name."""
        header, conversations = self.layout.header([row.length for row in shard.rows]), []
        digest = hashlib.sha256(header)
        with self._placed(shard.name) as file:
            file.write(header)
            for batch in shard.batches:
                for row, tensors in zip(batch, self._read(batch)):
                    parts = self.layout.encode(tensors)
                    for part in parts:
                        file.write(part)
                        digest.update(part)
                    checksums = [zlib.crc32(part) for part in parts]
                    conversations.append(
                        {"id": row.id, "row": row.row, "tokens": row.length, "crc32": checksums}
                    )
                    self.bar.update(row.length)
        return {
            "name": shard.name,
            "sha256": digest.hexdigest(),
            "bytes": shard.bytes,
            "header": {"bytes": len(header), "crc32": zlib.crc32(header)},
            "conversations": conversations,
        }

    def _read(self, batch: list[Row]) -> list[dict[str, torch.Tensor]]:
        """What is stored of each conversation of a batch, on the CPU."""
        examples, lengths = [self.examples[row.row] for row in batch], [row.length for row in batch]
        ids, masks = (
            [torch.as_tensor(example[key]).long() for example in examples]
            for key in ("input_ids", "loss_mask")
        )
        padded = pad_sequence(ids, batch_first=True).to(unwrap(self.target).device)
        real = torch.arange(padded.shape[1]) < torch.tensor(lengths)[:, None]
        aux, states = (
            tensor[real.to(tensor.device)]
            for tensor in target_states(self.target, padded, self.index["layer_ids"])
        )
        if not (aux.isfinite().all() and states.isfinite().all()):
            raise ValueError(
                f"the target's states are not finite in the batch of {[row.id for row in batch][:8]}; load the target in "
                "bfloat16 or float32"
            )
        stored = {
            name: tensor.cpu().split(lengths) for name, tensor in self._stored(aux, states).items()
        }
        columns = {"input_ids": ids, "loss_mask": [mask.bool() for mask in masks]} | stored
        return [
            {name: column[place] for name, column in columns.items()} for place in range(len(batch))
        ]

    def _stored(self, aux: torch.Tensor, states: torch.Tensor) -> dict[str, torch.Tensor]:
        """States [N, ...] in the storage dtype, the target's argmax, and the log-normaliser of what a reader will see."""
        best, normaliser = next_token_summary(self.target, states)
        tensors, seen = (
            self._quantised(aux, states) if self.layout.dtype == "int8" else self._cast(aux, states)
        )
        seen = seen.to(states.dtype)
        if not torch.equal(
            seen, states
        ):  # int8 states need not sum to one with the true normaliser: 0.6 to 1.2 on SmolLM2
            normaliser = next_token_summary(self.target, seen)[1]
        return tensors | {"best": best, "log_normaliser": normaliser}

    def _cast(self, aux: torch.Tensor, states: torch.Tensor):
        dtype = getattr(torch, self.layout.dtype)
        return {"aux_hidden_states": aux.to(dtype), "hidden_states": states.to(dtype)}, states.to(
            dtype
        )

    def _quantised(self, aux: torch.Tensor, states: torch.Tensor):
        streams = torch.cat([aux, states], dim=-1).unflatten(-1, (self.layout.streams, -1))
        if self.spread is None:
            self.spread = self._write_spread(measure_spread(streams))
        spread = self.spread.to(streams.device)
        values, scales = quantise(streams, spread)
        tensors = {
            "scales": scales,
            "aux_hidden_states": values[:, :-1].flatten(1),
            "hidden_states": values[:, -1],
        }
        return tensors, dequantise(values, scales, spread)[:, -1]

    def _write_spread(self, spread: torch.Tensor) -> torch.Tensor:
        data = save({"spread": spread.cpu().contiguous()})
        with self._placed(SPREAD) as file:
            file.write(data)
        self.index["spread_crc32"] = zlib.crc32(data)
        return spread.cpu()

    def _write_index(self) -> None:
        with self._placed(INDEX) as file:
            file.write((json.dumps(self.index, indent=1, ensure_ascii=False) + "\n").encode())

    @contextmanager
    def _placed(self, name: str) -> Iterator:
        """A file that stands under its name, whole, when the block has ended well; otherwise nothing of it stays."""
        local = self.folder.is_local
        with (
            nullcontext(self.folder.path)
            if local
            else tempfile.TemporaryDirectory(prefix="eagle_hf-") as here
        ):
            temporary = Path(here, f".{name}.tmp")
            try:
                with temporary.open("wb") as file:
                    yield file
                    file.flush()
                    os.fsync(file.fileno())
                if local:
                    temporary.replace(self.folder.file(name))
                else:
                    self.folder.fs.put_file(str(temporary), self.folder.file(name))
            except OSError as error:
                if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                    raise
                raise ValueError(
                    f"the disk of {here} became full while {name} was written; {len(self.index['shards'])} of {len(self.shards)} "
                    "shards are finished and kept: free space and run again, which goes on after them"
                ) from error
            finally:
                temporary.unlink(missing_ok=True)


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"
