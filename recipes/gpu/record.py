"""Turn what prove.py wrote into a page of docs: docs/benchmarks/gpu/DATE-CARD.md.

Every figure is read from the records, none is typed. What was not measured stands there as null,
with the reason. A page that exists is not overwritten, and a rehearsal makes none.

Hardware: any.
Duration: a second.
Command:  python recipes/gpu/record.py outputs/gpu/records.jsonl
Expected: the name of the page.
"""

import argparse
import re
import textwrap
from pathlib import Path
from typing import Any

from cells import PLANNED, read_records

FOLDER = Path(__file__).parents[2] / "docs/benchmarks/gpu"
WIDTH = 100  # columns of prose
TITLES = {
    "a": "Does it run",
    "b": "Speed at real sizes, acceptance set by hand",
    "e": "The reference head",
    "c": "Long texts, acceptance set by hand",
    "d": "Training",
}
NOTES = {
    "a": (
        "Small models, each path compared with plain decoding: the same tokens greedily, and under "
        "one seed where it samples. *same* is the share of equal tokens."
    ),
    "b": (
        "Llamas of real shapes with random weights. The head has the true shape and runs in full; "
        "its best proposal is then the right token with a chance that makes the *tau* of the row. "
        "So acceptance is set by hand, and the cost is real."
    ),
    "e": "The embedded target's own conversations, and a head that learns from them.",
    "c": (
        "8B's shape with random weights. Acceptance is set by hand, to what was measured on "
        "SmolLM2-135M. Trees by length are predicted from costs, not decoded with."
    ),
    "d": "The share of the matrix products is their time alone over the time of the step.",
}


def page(records: list[dict]) -> str:
    """The page's text.

    Raises:
        ValueError: the records are of a rehearsal, of no card, or of two.
    """
    run = records[0]
    if run.get("rehearsal") is not False:
        raise ValueError("these are a rehearsal's records; the docs hold those of a GPU alone")
    card = card_of(records)
    parts = [
        f"# {card}, {run['date']}",
        f"Written by `recipes/gpu/record.py` from {len(records)} records. The command:",
        f"```sh\npython recipes/gpu/prove.py --minutes {run['minutes']:g} "
        "--output_dir outputs/gpu\n```",
        textwrap.fill(versions_of(records), WIDTH),
    ]
    for stage, title in TITLES.items():
        own = [record for record in records if record["stage"] == stage]
        parts += [f"## {title}", textwrap.fill(NOTES[stage], WIDTH), *section(own)]
    return "\n\n".join(parts) + "\n"


def card_of(records: list[dict]) -> str:
    """The one card that all stages ran on.

    Raises:
        ValueError: there is none, or there are several.
    """
    cards = {record["card"] for record in records if record.get("card")}
    if len(cards) != 1:
        raise ValueError(f"the records name {len(cards)} cards ({sorted(cards)}); one is needed")
    return cards.pop()


def versions_of(records: list[dict]) -> str:
    """What the stages ran with."""
    first = next(record for record in records if record.get("card"))
    return (
        f"Python {first['python']}, PyTorch {first['torch']} (CUDA {first['cuda']}), transformers "
        f"{first['transformers']}."
    )


def section(records: list[dict]) -> list[str]:
    """A stage: how it ended, its figures, and what was not measured."""
    ended = next((record for record in records if "ended" in record), None)
    if ended is None:
        return ["Ended: null (the run was cut off before it)."]
    taken = "null" if ended["seconds"] is None else f"{ended['seconds']:g} s"
    parts = [f"Ended: {ended['ended']}. Seconds: {taken}."]
    measured = [record for record in records if record.get("result") is not None]
    unmeasured = [record for record in records if record.get("why") and "name" in record]
    for columns, rows in groups(measured):
        parts.append(table(["", *columns], rows))
    if unmeasured:
        rows = [[record["name"], "null", one_line(record["why"])] for record in unmeasured]
        parts.append(table(["not measured", "result", "why"], rows))
    if not any(PLANNED in record for record in records):
        parts.append("Results: null.")
    return parts


def groups(records: list[dict]) -> list[tuple[list[str], list[list[str]]]]:
    """(columns, rows) of the records that have the same figures."""
    found: dict[tuple[str, ...], list[list[str]]] = {}
    for record in records:
        columns = tuple(record["result"])
        row = [record["name"], *(shown(value) for value in record["result"].values())]
        found.setdefault(columns, []).append(row)
    return [(list(columns), rows) for columns, rows in found.items()]


def shown(value: Any) -> str:
    """A figure in a cell, to four digits."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "yes" if value else "**no**"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, dict):
        return ", ".join(f"{name}: {shown(part)}" for name, part in value.items()) or "none"
    return one_line(str(value))


def one_line(text: str) -> str:
    """Text that fits a cell of a table."""
    line = " ".join(text.split()).replace("|", "\\|")
    return line if len(line) <= 160 else line[:157] + "..."


def table(header: list[str], rows: list[list[str]]) -> str:
    """A table in Markdown."""
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join(lines)


def record(file: Path, folder: Path = FOLDER) -> Path:
    """Write the page of a run.

    Raises:
        ValueError: the page exists, or the records make none.
    """
    records = read_records(file)
    if not records:
        raise ValueError(f"{file} holds no whole record; run recipes/gpu/prove.py")
    text = page(records)
    card = re.sub(r"[^a-z0-9]+", "-", card_of(records).lower()).strip("-")
    path = folder / f"{records[0]['date']}-{card}.md"
    if path.exists():
        raise ValueError(f"{path} exists and is not overwritten; move it away first")
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("records", type=Path, help="records.jsonl of prove.py.")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="Of the pages.")
    arguments = parser.parse_args()
    try:
        path = record(arguments.records, arguments.folder)
    except (ValueError, OSError) as error:
        parser.error(str(error))
    print(f"{path}\nadd it to mkdocs.yml, under Benchmarks, and to {FOLDER.name}/index.md")


if __name__ == "__main__":
    main()
