"""Runs kept as they are measured: an interrupted bench goes on behind them.

requests.jsonl holds, a JSON line each: what was asked of every server; then of each run its
beginning, its requests as they ended, and its end. serving.json is made from it.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from eagle_hf.data.manifest import write_whole
from eagle_hf.evaluation.serving.load import Arrival
from eagle_hf.evaluation.serving.measures import ALL, DEFINITIONS, Limits, measure
from eagle_hf.evaluation.serving.records import RequestRecord
from eagle_hf.evaluation.serving.servers import OpenServer

REQUESTS = "requests.jsonl"
SERVING = "serving.json"
SCHEMA = 1
KIND = "serving"


@dataclass
class KeptRun:
    """One server under one load.

    Attributes:
        label: of the server.
        url: of the server.
        engine, model, version: as the server calls them.
        arrival: how requests arrived.
        category: of the prompts, or ALL.
        records: of its requests.
        is_whole: whether every request was sent and ended.
        acceptance: by the server's counters, as serving.json has it.
    """

    label: str
    url: str
    engine: str
    model: str
    version: str
    arrival: Arrival
    category: str
    records: list[RequestRecord] = field(default_factory=list)
    is_whole: bool = False
    acceptance: dict[str, Any] | None = None

    @property
    def key(self) -> tuple[str, Arrival, str]:
        """What makes it another run than the others of the folder."""
        return self.label, self.arrival, self.category

    @property
    def seconds(self) -> float | None:
        """From the first request sent to the last one ended; None without any."""
        if not self.records:
            return None
        first = min(record.sent for record in self.records)
        return max(record.ended for record in self.records) - first

    def beginning(self) -> dict[str, Any]:
        """The run as the line of its beginning holds it."""
        return {
            "label": self.label,
            "url": self.url,
            "engine": self.engine,
            "model": self.model,
            "version": self.version,
            "arrival": self.arrival.to_json(),
            "category": self.category,
        }

    def rows(self, limits: Limits | None) -> list[dict[str, Any]]:
        """The run as serving.json holds it: a row, and one for each category of a mixed run."""
        named = self.beginning()
        del named["url"]
        if not self.is_whole:
            named["interrupted"] = True
        rows = [named | measure(self.records, self.seconds, limits, self.acceptance)]
        categories = list(dict.fromkeys(record.category for record in self.records))
        if self.category == ALL and len(categories) > 1:
            for category in categories:
                own = [record for record in self.records if record.category == category]
                rows.append(named | {"category": category} | measure(own, None, limits))
        return rows


class KeptRequests:
    """The runs of a folder.

    Args:
        folder: where; runs that are there are taken over.
        asked: what decides what a server is asked.

    Attributes:
        asked: the same, as JSON holds it.
        runs: by their keys; the last one of a key counts.

    Raises:
        ValueError: The folder holds runs with other prompts or settings, or something else.
    """

    def __init__(self, folder: Path, asked: Mapping[str, Any]):
        self.folder = folder
        self.file = folder / REQUESTS
        self.asked = json.loads(json.dumps(asked, default=str))
        self.runs: dict[tuple[str, Arrival, str], KeptRun] = {}
        if self.file.exists():
            self._take_over()
            return
        if any("source" not in row for row in earlier_rows(folder)):
            raise ValueError(
                f"{folder} holds measured runs in {SERVING} without their {REQUESTS}; give "
                "another --out"
            )
        folder.mkdir(parents=True, exist_ok=True)
        self._write({"asked": self.asked})

    def is_measured(self, server: OpenServer, arrival: Arrival, category: str) -> bool:
        """Whether the folder has this run.

        Raises:
            ValueError: It has runs of that label which belong to another server.
        """
        label = server.server.label
        for run in self.runs.values():
            is_other = (run.model, run.engine) != (server.model, server.engine)
            if run.label == label and is_other:
                raise ValueError(
                    f"{self.folder} has runs of {label!r} that asked {run.model!r} on "
                    f"{run.engine or 'an unknown engine'}, and now it is {server.model!r} on "
                    f"{server.engine or 'an unknown engine'}; give another label or --out"
                )
        found = self.runs.get((label, arrival, category))
        return found is not None and found.is_whole

    def begin(self, server: OpenServer, arrival: Arrival, category: str) -> KeptRun:
        """Begin a run, in the place of an interrupted one."""
        named = server.server
        run = KeptRun(
            named.label, named.url, server.engine, server.model, server.version, arrival, category
        )
        self._write({"begin": run.beginning()})
        self.runs[run.key] = run
        return run

    def add(self, run: KeptRun, record: RequestRecord) -> None:
        """Keep a request of the run that was begun last."""
        run.records.append(record)
        self._write({"request": record.to_json()})

    def end(self, run: KeptRun, acceptance: dict[str, Any] | None) -> None:
        """Note that a run is whole."""
        run.is_whole = True
        run.acceptance = acceptance
        self._write({"end": {"acceptance": acceptance}})

    def rows(self, limits: Limits | None) -> list[dict[str, Any]]:
        """All runs as serving.json holds them.

        A category that was measured by itself takes the place of its share in a mixed run.
        """
        alone = {run.key for run in self.runs.values() if run.category != ALL}
        rows = []
        for run in self.runs.values():
            for row in run.rows(limits):
                is_share = row["category"] != run.category
                if not (is_share and (run.label, run.arrival, row["category"]) in alone):
                    rows.append(row)
        return rows

    def versions(self) -> dict[str, str]:
        """What each server calls its version or build, by label; "" where it does not say."""
        found = {}
        for run in self.runs.values():
            builds = [record.build for record in run.records if record.build]
            found[run.label] = run.version or (builds[0] if builds else "")
        return found

    def _take_over(self) -> None:
        """Read what earlier calls have kept."""
        text = self.file.read_text(encoding="utf-8")
        whole, _, torn = text.rpartition("\n")
        if torn:  # a process was killed while it wrote: the half line is no measurement
            self.file.write_text(f"{whole}\n", encoding="utf-8")
        try:
            asked, *lines = [json.loads(line) for line in whole.splitlines()]
            found = asked["asked"]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"{self.file} does not hold requests of bench-serving; give another --out"
            ) from error
        differing = [name for name in self.asked if found.get(name) != self.asked[name]]
        if differing:
            name = differing[0]
            raise ValueError(
                f"{self.folder} holds runs with other settings: {', '.join(differing)} ({name} was "
                f"{_shortened(found.get(name))}, and is {_shortened(self.asked[name])}); give "
                "another --out, or the same settings"
            )
        self._read(lines)

    def _read(self, lines: Sequence[dict[str, Any]]) -> None:
        """Read the lines of runs."""
        run: KeptRun | None = None
        for line in lines:
            if "begin" in line:
                fields = dict(line["begin"])
                arrival = fields.pop("arrival")
                del arrival["kind"]
                run = KeptRun(**fields, arrival=Arrival(**arrival))
                self.runs[run.key] = run
            elif run is None:
                raise ValueError(f"{self.file} has a request before any run; give another --out")
            elif "request" in line:
                run.records.append(RequestRecord(**line["request"]))
            else:
                run.is_whole = True
                run.acceptance = line["end"]["acceptance"]

    def _write(self, line: dict[str, Any]) -> None:
        """Append a line."""
        with self.file.open("a", encoding="utf-8") as lines:
            lines.write(json.dumps(line) + "\n")


def earlier_rows(folder: Path) -> list[dict[str, Any]]:
    """The rows of a folder's serving.json; none where there is no such file.

    Raises:
        ValueError: the file is something else.
    """
    path = folder / SERVING
    if not path.exists():
        return []
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        is_ours = (content["kind"], content["schema"]) == (KIND, SCHEMA)
    except (ValueError, KeyError, TypeError):
        is_ours = False
    if not is_ours:
        raise ValueError(f"{path} is not of this version's bench-serving; give another --out")
    return content["runs"]


def write_serving(
    folder: Path,
    rows: Sequence[dict[str, Any]],
    settings: Mapping[str, Any],
    machine: Mapping[str, Any],
    versions: Mapping[str, Any],
) -> Path:
    """Write serving.json, whole or not at all.

    Args:
        folder: is made where it does not exist.
        rows: runs, measured here or read from other tools.
        settings: what was asked.
        machine: where the client ran.
        versions: of the client's libraries and of the servers.

    Returns:
        The file.
    """
    folder.mkdir(parents=True, exist_ok=True)
    content = {
        "schema": SCHEMA,
        "kind": KIND,
        "machine": machine,
        "versions": versions,
        "settings": settings,
        "definitions": DEFINITIONS,
        "runs": list(rows),
    }
    path = folder / SERVING
    write_whole(path, json.dumps(content, indent=1, default=str) + "\n")
    return path


def _shortened(value: object) -> str:
    """A value as an error shows it."""
    text = json.dumps(value)
    return text if len(text) < 80 else f"{text[:77]}..."
