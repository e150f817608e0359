"""`eagle-hf report`: one HTML page of charts from what was measured."""

from dataclasses import dataclass, field
from pathlib import Path

from eagle_hf.cli.command import Command
from eagle_hf.evaluation.charts import read_sources, report_page, write_pictures


@dataclass(kw_only=True)
class ReportArguments:
    """Of which files, and where the page goes."""

    files: list[Path] = field(
        metadata={
            "help": "Folders, or JSON files: metrics.json, serving.json, trainer_state.json, "
            "plan.json, speeds.json, roofline.json.",
            "metavar": "FOLDER_OR_JSON",
            "positional": True,
        }
    )
    out: Path = field(default=Path("report.html"), metadata={"help": "The page."})
    pictures: Path | None = field(
        default=None, metadata={"help": "Folder for every chart as PNG and SVG, for cards."}
    )
    title: str = field(
        default="What speculative decoding gains here", metadata={"help": "Of the page."}
    )

    def __post_init__(self) -> None:
        if self.out.is_dir():
            raise ValueError(f"out is {self.out}, a folder; give a file such as report.html")


def run(arguments: ReportArguments) -> None:
    """Read everything, then write the page and the pictures."""
    sources = read_sources(arguments.files)
    for path, reason in sources.left_out.items():
        print(f"left out: {path}: {reason}")
    page = report_page(sources, arguments.title)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(page, encoding="utf-8")
    print(f"the report is in {arguments.out}, {len(page.encode()) / 1e6:.1f} MB")
    if arguments.pictures is not None:
        files = write_pictures(arguments.pictures, sources)
        print(f"{len(files)} pictures are in {arguments.pictures}")


COMMAND = Command(
    name="report",
    summary="one HTML page of charts from what was measured, and the charts as pictures",
    arguments=ReportArguments,
    run=run,
)
