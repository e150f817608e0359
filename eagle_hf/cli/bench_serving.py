"""`eagle-hf bench-serving`: speed and acceptance of OpenAI-compatible servers, side by side."""

import asyncio
import hashlib
import json
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from eagle_hf.cli.command import Command
from eagle_hf.cli.keys import KEY_HELP, KEY_METAVAR
from eagle_hf.data.answers.keys import ServerKeys
from eagle_hf.data.manifest import library_versions, only_one_run
from eagle_hf.data.prompts.long_texts import is_long
from eagle_hf.data.prompts.suites import load_suite
from eagle_hf.data.rows import Prompt
from eagle_hf.evaluation.serving import (
    Arrival,
    BenchSettings,
    KeptRequests,
    Limits,
    NamedServer,
    bench_servers,
    category_table,
    definitions_text,
    earlier_rows,
    read_results,
    serving_table,
    write_serving,
)
from eagle_hf.provenance import cpu_name
from eagle_hf.target.dtypes import cpu_features
from eagle_hf.target.tokenizers import open_tokenizer

CONCURRENCIES = (1, 2, 4, 8)


@dataclass(kw_only=True)
class BenchServingArguments:
    """Which servers, under which loads, with which prompts."""

    server: list[str] = field(
        default_factory=list,
        metadata={
            "help": "A server's label and address, as plain=http://localhost:8000; several times "
            "for several servers.",
            "action": "extend",
            "metavar": "LABEL=URL",
        },
    )
    read: list[str] = field(
        default_factory=list,
        metadata={
            "help": "A result file of vllm bench serve, guidellm or aiperf, to stand beside them.",
            "action": "extend",
            "metavar": "LABEL=FILE",
        },
    )
    model: str | None = field(
        default=None, metadata={"help": "Its name on the servers (default: the only one there)."}
    )
    categories: list[str] = field(
        default_factory=lambda: ["chat", "code", "math"],
        metadata={"help": "Bundled categories, long:4k with --tokenizer, or .jsonl files."},
    )
    tokenizer: str | None = field(
        default=None,
        metadata={
            "help": "Hub id, folder or .gguf file of the served model, or smollm2: its tokens are "
            "counted in long:4k."
        },
    )
    per_category: int = field(default=8, metadata={"help": "Prompts of each category."})
    each_category: bool = field(
        default=False,
        metadata={"help": "Measure each category by itself, too: its throughput and acceptance."},
    )
    concurrency: list[int] = field(
        default_factory=list,
        metadata={"help": "Requests in flight, run by run (default: 1 2 4 8, without --rate)."},
    )
    rate: list[float] = field(
        default_factory=list,
        metadata={"help": "Requests per second that arrive at random (Poisson), run by run."},
    )
    requests: int | None = field(
        default=None, metadata={"help": "Requests of each run (default: every prompt once)."}
    )
    max_new_tokens: int = field(default=128, metadata={"help": "Tokens of each answer."})
    temperature: float = field(default=0.0, metadata={"help": "Of the answers; 0 is greedy."})
    seed: int = field(default=0, metadata={"help": "Of the sampling and of random arrivals."})
    goodput: list[str] = field(
        default_factory=list,
        metadata={
            "help": "Limits in milliseconds that a good answer keeps, as ttft:500 tpot:50 e2e:9000."
        },
    )
    warm_up: int = field(
        default=2, metadata={"help": "Requests before each run that are not measured."}
    )
    prefix_cache: bool = field(
        default=False,
        metadata={"help": "Let the server reuse what it has read of an earlier request."},
    )
    request_fields: dict[str, Any] = field(
        default_factory=dict,
        metadata={
            "help": "Other fields of every request, such as '{\"ignore_eos\": true}'; one that is "
            "null is left out of it."
        },
    )
    timeout: float = field(default=600.0, metadata={"help": "Seconds for one answer."})
    api_key_variable: list[str] = field(
        default_factory=list,
        metadata={"help": KEY_HELP, "action": "extend", "metavar": KEY_METAVAR},
    )
    out: Path = field(
        default=Path("outputs/serving"),
        metadata={"help": "Folder of serving.json, the tables, and single requests."},
    )

    def __post_init__(self) -> None:
        if not self.server and not self.read:
            raise ValueError(
                "there is nothing to measure; give --server LABEL=URL, or --read LABEL=FILE"
            )
        needs_tokenizer = [name for name in self.categories if is_long(name)]
        if needs_tokenizer and self.tokenizer is None:
            raise ValueError(
                f"{', '.join(needs_tokenizer)} is counted in tokens of the served model; name it "
                "with --tokenizer"
            )
        for name in ("concurrency", "rate"):
            given = getattr(self, name)
            if len(set(given)) < len(given):
                raise ValueError(f"{name} is {given}; give each number once")

    def arrivals(self) -> list[Arrival]:
        """The loads, closed loops first."""
        closed = self.concurrency
        if not closed and not self.rate:
            closed = list(CONCURRENCIES)
        loads = [Arrival(concurrency=number) for number in closed]
        return loads + [Arrival(rate=number) for number in self.rate]

    def settings(self) -> BenchSettings:
        """How servers are asked."""
        return BenchSettings(
            max_new_tokens=self.max_new_tokens,
            temperature=self.temperature,
            seed=self.seed,
            requests=self.requests,
            warm_up=self.warm_up,
            timeout_s=self.timeout,
            prefix_cache=self.prefix_cache,
            request_fields=self.request_fields,
        )


def run(arguments: BenchServingArguments) -> None:
    """Measure the servers, print the tables and what they mean, and keep everything."""
    # 1) what is cheap to refuse comes first
    limits = Limits.parse(arguments.goodput)
    arrivals = arguments.arrivals()
    settings = arguments.settings()
    servers = NamedServer.parse_all(arguments.server) if arguments.server else []
    read = []
    for text in arguments.read:
        read += read_results(text)
    labels = [server.label for server in servers]
    keys = ServerKeys.read(arguments.api_key_variable, labels)

    with only_one_run(arguments.out):
        rows = read + read_before(arguments.out, read)
        if not servers:
            report_read_rows(arguments.out, rows)
            return
        # 2) measure what the folder does not have yet
        tokenizer = None
        if arguments.tokenizer is not None:
            tokenizer = open_tokenizer(arguments.tokenizer, None, arguments.tokenizer, {})
        prompts = load_suite(arguments.categories, arguments.per_category, tokenizer=tokenizer)
        asked = asdict(settings) | asked_prompts(arguments.categories, prompts)
        kept = KeptRequests(arguments.out, asked)

        def write() -> None:
            write_files(arguments.out, [*kept.rows(limits), *rows], asked, kept.versions())

        measuring = bench_servers(
            servers,
            prompts,
            arrivals,
            settings,
            kept,
            model=arguments.model,
            keys=keys,
            each_category=arguments.each_category,
            after_run=write,
        )
        try:
            asyncio.run(measuring)
        finally:  # interrupted, too
            report(arguments.out, [*kept.rows(limits), *rows], asked, kept.versions())


def read_before(folder: Path, read: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows that earlier calls have read from result files, without those that are read again."""
    again = [(row["label"], row["source"]) for row in read]
    earlier = []
    for row in earlier_rows(folder):
        if "source" in row and (row["label"], row["source"]) not in again:
            earlier.append(row)
    return earlier


def report_read_rows(folder: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Report rows that were all measured elsewhere."""
    if any("source" not in row for row in earlier_rows(folder)):
        raise ValueError(
            f"{folder} holds runs that were measured here; give their --server too, or another "
            "--out"
        )
    report(folder, rows, {}, {})


def report(
    folder: Path,
    rows: Sequence[dict[str, Any]],
    asked: dict[str, Any],
    servers: dict[str, str],
) -> None:
    """Write the files, and print the same; nothing where nothing was measured."""
    if not rows:
        return
    write_files(folder, rows, asked, servers)
    print(tables(rows))
    print(f"\nkept in {folder}")


def write_files(
    folder: Path,
    rows: Sequence[dict[str, Any]],
    asked: dict[str, Any],
    servers: dict[str, str],
) -> None:
    """Write serving.json and table.md."""
    versions = library_versions(("aiohttp", "eagle_hf")) | {"servers": servers}
    write_serving(folder, rows, asked, client_machine(), versions)
    (folder / "table.md").write_text(f"{tables(rows)}\n", encoding="utf-8")


def tables(rows: Sequence[dict[str, Any]]) -> str:
    """All runs, those of single categories, and what the columns mean."""
    parts = [serving_table(rows), category_table(rows)]
    parts.append(f"Times are median / p99.\n\n{definitions_text()}")
    return "\n\n".join(part for part in parts if part)


def asked_prompts(categories: Sequence[str], prompts: Sequence[Prompt]) -> dict[str, Any]:
    """What makes other prompts another measurement: where they are from, and their text."""
    text = json.dumps(list(prompts), sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest()
    return {"categories": list(categories), "prompts": len(prompts), "prompts_sha256": digest}


def client_machine() -> dict[str, Any]:
    """The machine that asked; a server's own may be another."""
    return {
        "role": "client",
        "device": cpu_name(),
        "cpu_features": " ".join(cpu_features()),
        "system": platform.platform(),
        "python": platform.python_version(),
    }


COMMAND = Command(
    name="bench-serving",
    summary="speed, latency and acceptance of OpenAI-compatible servers",
    arguments=BenchServingArguments,
    run=run,
)
