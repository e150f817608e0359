"""Features from a cluster: each worker captures parts of the examples, each into a folder.

    URL/part-000000/    index.json and shards, as `capture_features` writes them
    URL/part-000001/
    URL/index.json     written at the end: all parts as one folder (see `join_features`)

A part is cut by its tokens alone, so the same examples have the same parts in every run, and a part
that a dead worker has begun goes on after its last finished shard.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from eagle_hf.cluster.stages import StageRun, Workers
from eagle_hf.data import EngineStates, Example, capture_features, join_features, template_sha256
from eagle_hf.pipeline.rows import read_rows

COUNTED = ("written", "already_there", "tokens", "bytes", "shards", "left_out")
PART_TOKENS = 2**18  # 1 GB of a target with hidden size 512, 17 GB with 8192


@dataclass(frozen=True)
class OpenedTarget:
    """What a worker captures with.

    Attributes:
        target: the frozen target.
        tokenizer: its tokenizer.
        layer_ids: layers whose inputs are kept.
    """

    target: Any
    tokenizer: Any
    layer_ids: list[int]


@dataclass(frozen=True)
class CaptureSettings:
    """How states are kept.

    Attributes:
        url: folder that all nodes see, or what fsspec opens.
        dtype: of the stored states: "float32" or "bfloat16".
        batch_tokens: most tokens that the target reads at once, padding included.
        engine_states: folder of states that an engine wrote; None: the target computes them.
    """

    url: str
    dtype: str
    batch_tokens: int
    engine_states: str | None = None

    def __post_init__(self) -> None:
        if self.dtype == "int8":
            raise ValueError(
                "features.storage_dtype is int8, whose scale is measured once for all; use "
                "bfloat16 on a cluster, or executor: local"
            )


@dataclass(frozen=True)
class CaptureUnit:
    """Examples that one worker captures: a part.

    Attributes:
        number: of the part, from 0.
        examples: of it.
    """

    number: int
    examples: list[Example]

    @property
    def name(self) -> str:
        """The folder of the part."""
        return f"part-{self.number:06d}"


@dataclass(frozen=True)
class OpenCapture:
    """Makes the stage that captures, on a worker.

    Attributes:
        open_target: opens the target.
        settings: how its states are kept.
    """

    open_target: Callable[[], OpenedTarget]
    settings: CaptureSettings

    def __call__(self) -> "CaptureStage":
        return CaptureStage(self.open_target(), self.settings)


class CaptureStage:
    """Captures parts; a `Stage`.

    Args:
        opened: the target of this worker.
        settings: how its states are kept.
    """

    def __init__(self, opened: OpenedTarget, settings: CaptureSettings):
        self.opened = opened
        self.settings = settings

    def __call__(self, unit: CaptureUnit) -> dict[str, Any]:
        """Capture a part, from where an earlier worker has left it.

        Returns:
            `part`, and the counts of `CaptureReport`.
        """
        settings = self.settings
        source = None
        if settings.engine_states is not None:
            source = EngineStates(settings.engine_states)
        report = capture_features(
            self.opened.target,
            unit.examples,
            f"{settings.url}/{unit.name}",
            layer_ids=self.opened.layer_ids,
            template_sha256=template_sha256(self.opened.tokenizer),
            dtype=settings.dtype,
            batch_tokens=settings.batch_tokens,
            progress=False,
            source=source,
        )
        counts = asdict(report) | {"left_out": len(report.left_out)}
        return {"part": unit.name, **counts}


def capture_file(
    ray: Any, open_stage: OpenCapture, workers: Workers, source: Path
) -> dict[str, float]:
    """Capture a file of examples on a cluster.

    Args:
        ray: the module, connected.
        open_stage: makes the stage.
        workers: how many, and what each takes.
        source: JSON lines of `Example` rows.

    Returns:
        The fields of `CaptureReport`, of all parts together; `seconds` of the clock.

    Raises:
        ValueError: what `capture_features` refuses, on a worker.
    """
    started = time.perf_counter()
    sums: dict[str, float] = dict.fromkeys(COUNTED, 0)
    parts = []
    run = StageRun(ray, open_stage, workers, cut_parts(read_rows(source)))
    with tqdm(total=run.left, desc="features", unit="part") as progress:
        for found in run.results():
            parts.append(found["part"])
            for name in sums:
                sums[name] += found[name]
            progress.update()
    join_features(open_stage.settings.url, sorted(parts))
    return sums | {"seconds": time.perf_counter() - started}


def cut_parts(rows: Iterator[Any], part_tokens: int = PART_TOKENS) -> Iterator[CaptureUnit]:
    """Cut examples into parts.

    Args:
        rows: `Example`s.
        part_tokens: a part is full once it has as many.

    Yields:
        The parts in order.
    """
    number = 0
    examples: list[Example] = []
    tokens = 0
    for row in rows:
        examples.append(row)
        tokens += len(row["input_ids"])
        if tokens >= part_tokens:
            yield CaptureUnit(number, examples)
            number += 1
            examples = []
            tokens = 0
    if examples:
        yield CaptureUnit(number, examples)
