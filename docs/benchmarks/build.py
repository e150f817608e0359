"""Write the pages of docs/benchmarks from the measurements that are kept, and from nothing else.

    python docs/benchmarks/build.py                                   # writes all pages
    python docs/benchmarks/build.py --keep outputs/methods NAME       # keeps one more, writes all

`--keep` copies metrics.json or serving.json of a folder to docs/benchmarks/kept/NAME, in one line a
top-level key, with the title, the command and the date that its page shows. The command is what the
file says was asked; a file that does not say it needs `--command`. The date is the file's own;
`--date` corrects it. Absolute paths lose their folders: those of one machine mean nothing
elsewhere.

Each kept folder is a page, a line of index.md, and an entry of the site's navigation.
"""

import argparse
import json
import shlex
from dataclasses import MISSING, Field, fields
from datetime import date
from pathlib import Path
from typing import Any

from benchmark_markdown import Content, markdown_table, wrapped
from benchmark_tables import describe, kind_of, machine_of

from eagle_hf.cli.main import COMMANDS

FOLDER = Path(__file__).parent
ROOT = FOLDER.parents[1]
FILES = ("metrics.json", "serving.json")
KINDS = {
    "head": "one head, by category",
    "methods": "methods side by side",
    "serving": "against a server",
}
WRITTEN_BY = {"methods": "evaluate", "serving": "bench-serving"}  # the commands that say themselves
LIST = ("<!-- kept: written by build.py -->\n", "<!-- end of kept -->\n")
NAVIGATION = (
    "          # kept: written by docs/benchmarks/build.py\n",
    "          # end of kept\n",
)


# 1) keeping


def keep(
    source: Path,
    name: str,
    *,
    title: str | None = None,
    command: str | None = None,
    day: str | None = None,
    replace: bool = False,
    folder: Path = FOLDER,
) -> Path:
    """Copy a measurement to the kept ones.

    Args:
        source: folder with metrics.json or serving.json.
        name: of the kept folder and of the page.
        title: of the page; default: the name.
        command: that measured it; default: what the file says.
        day: on which it was measured, as 2026-11-27; default: the file's date.
        replace: whether an older measurement of the name may go.
        folder: of the benchmarks.

    Returns:
        The kept file.

    Raises:
        ValueError: there is no such file, it has no known schema, its command is not known, the
            name is taken or is no name, or the date is none.
    """
    file = _measured_file(source)
    content = json.loads(file.read_text())
    if not name.replace("-", "").isalnum() or name == "index":
        raise ValueError(f"the name is {name!r}; take letters, digits and -, but not index")
    target = folder / "kept" / name / file.name
    if target.parent.exists() and not replace:
        raise ValueError(f"{name} is kept already; take another name, or add --replace")
    content = without_folders(content)
    about = {
        "title": title or name.replace("-", " ").capitalize(),
        "command": command or command_of(content),
        "date": str(date.fromisoformat(day) if day else date.fromtimestamp(file.stat().st_mtime)),
    }
    describe(content)  # what cannot be shown is not kept
    target.parent.mkdir(parents=True, exist_ok=True)
    for other in FILES:
        (target.parent / other).unlink(missing_ok=True)
    target.write_text(compact({"kept": about} | content))
    return target


def _measured_file(source: Path) -> Path:
    """The one measurement of a folder."""
    found = [source / name for name in FILES if (source / name).is_file()]
    if len(found) != 1:
        names = " and ".join(path.name for path in found) or f"neither of {' and '.join(FILES)}"
        raise ValueError(f"{source} holds {names}; give a folder with exactly one of them")
    return found[0]


def without_folders(value: Any) -> Any:
    """The same content with absolute paths as paths from the repository, or by their last name."""
    if isinstance(value, dict):
        return {key: without_folders(part) for key, part in value.items()}
    if isinstance(value, list):
        return [without_folders(part) for part in value]
    if isinstance(value, str) and value.startswith("/"):
        path = Path(value)
        is_path = len(path.parts) > 2 and Path(*path.parts[:2]).is_dir()
        if is_path:
            inside = path.is_relative_to(ROOT)
            return path.relative_to(ROOT).as_posix() if inside else path.name
    return value


def command_of(content: Content) -> str:
    """The command that a file says it was measured by.

    Raises:
        ValueError: it does not say it.
    """
    if isinstance(content.get("command"), str):
        return content["command"]
    kind = kind_of(content)
    asked = content.get("asked") if kind == "methods" else content.get("settings")
    name = WRITTEN_BY.get(kind)
    for command in COMMANDS:
        if command.name == name:
            words = _words(command.arguments, asked)
            if words is not None:
                return shlex.join(["eagle-hf", command.name, *words])
    raise ValueError(
        "the file does not say by which command it was measured; add --command 'eagle-hf ...'"
    )


def _words(arguments: type, asked: dict[str, Any]) -> list[str] | None:
    """The flags that differ from their defaults; None where a field was not recorded."""
    words = []
    for field in fields(arguments):
        if field.metadata.get("unrecorded"):
            continue
        if field.name not in asked:
            return None
        value = asked[field.name]
        if value == _default(field):
            continue
        if not field.metadata.get("positional"):
            words.append("--" + field.name.replace("_", "-"))
        if isinstance(value, list):
            words += map(str, value)
        elif isinstance(value, dict):
            words.append(json.dumps(value))
        elif value is not True:
            words.append(str(value))
    return words


def _default(field: Field) -> Any:
    """A field's default, as JSON holds it."""
    if field.default_factory is not MISSING:
        value = field.default_factory()
    else:
        value = None if field.default is MISSING else field.default
    return json.loads(json.dumps(value, default=str))


def compact(content: Content) -> str:
    """JSON in a line a top-level key, so that a change is seen where it is."""
    lines = []
    for key, value in content.items():
        lines.append(f"{json.dumps(key)}: {json.dumps(value, separators=(',', ':'))}")
    return "{\n" + ",\n".join(lines) + "\n}\n"


# 2) pages


def pages(folder: Path = FOLDER, site: Path = ROOT / "mkdocs.yml") -> dict[Path, str]:
    """What every written file holds: a page for each measurement, the index, the navigation.

    Args:
        folder: of the benchmarks, with kept/ and index.md.
        site: the site's settings.

    Returns:
        Texts by file.
    """
    kept = read_kept(folder)
    texts = {}
    for name, content in kept.items():
        texts[folder / f"{name}.md"] = page(name, content)
    entries = []
    for name, content in kept.items():
        entries.append(f"          - {content['kept']['title']}: benchmarks/{name}.md\n")
    index = folder / "index.md"
    texts[index] = between(index.read_text(), LIST, list_of(kept) + "\n")
    texts[site] = between(site.read_text(), NAVIGATION, "".join(entries))
    return texts


def read_kept(folder: Path) -> dict[str, Content]:
    """All measurements by their names, the newest first."""
    found = {}
    for file in sorted(folder.glob("kept/*/*.json")):
        found[file.parent.name] = json.loads(file.read_text())

    def day(name: str) -> str:
        return found[name]["kept"]["date"]

    return {name: found[name] for name in sorted(found, key=day, reverse=True)}


def page(name: str, content: Content) -> str:
    """One measurement's page."""
    about = content["kept"]
    file = "serving.json" if kind_of(content) == "serving" else "metrics.json"
    intro = wrapped(
        f"Measured on {long_date(about['date'])}. Every figure is read from `kept/{name}/{file}`, "
        "none was typed. The command:"
    )
    parts = [
        f"# {about['title']}",
        f"<!-- written by docs/benchmarks/build.py from kept/{name}/{file}: do not edit -->",
        intro,
        f"```sh\n{wrap_command(about['command'])}\n```",
        describe(content),
    ]
    return "\n\n".join(parts) + "\n"


def list_of(kept: dict[str, Content]) -> str:
    """The table of index.md."""
    rows = []
    for name, content in kept.items():
        about = content["kept"]
        link = f"[{about['title']}]({name}.md)"
        device = str(machine_of(content).get("device", ""))
        rows.append([link, KINDS[kind_of(content)], device, long_date(about["date"])])
    return markdown_table(["measured", "what", "machine", "when"], rows)


def long_date(day: str) -> str:
    """27 November 2026 of 2026-11-27."""
    parsed = date.fromisoformat(day)
    return f"{parsed.day} {parsed:%B %Y}"


def wrap_command(command: str, width: int = 96) -> str:
    """A command in lines that fit, joined by backslashes."""
    lines = [""]
    for word in map(shlex.quote, shlex.split(command)):
        if lines[-1] and len(lines[-1]) + len(word) >= width:
            lines.append("   ")
        lines[-1] += f" {word}" if lines[-1] else word
    return " \\\n".join(lines)


def between(text: str, marks: tuple[str, str], new: str) -> str:
    """The text with what stands between two marks replaced."""
    before, rest = text.split(marks[0])
    after = rest.split(marks[1])[1]
    return before + marks[0] + new + marks[1] + after


def main() -> None:
    parser = argparse.ArgumentParser(description="The pages of docs/benchmarks.")
    parser.add_argument(
        "--keep", nargs=2, metavar=("FOLDER", "NAME"), help="keep the measurement of a folder"
    )
    parser.add_argument("--title", help="of its page; default: the name")
    parser.add_argument("--command", help="that measured it; default: what the file says")
    parser.add_argument("--date", help="on which it was measured; default: the file's date")
    parser.add_argument("--replace", action="store_true", help="the one kept under this name")
    options = parser.parse_args()
    if options.keep:
        source, name = options.keep
        try:
            file = keep(
                Path(source),
                name,
                title=options.title,
                command=options.command,
                day=options.date,
                replace=options.replace,
            )
        except ValueError as error:
            parser.error(str(error))
        about = json.loads(file.read_text())["kept"]
        print(f"kept in {file.parent}, as measured on {about['date']} by: {about['command']}")
    for file, text in pages().items():
        file.write_text(text)


if __name__ == "__main__":
    main()
