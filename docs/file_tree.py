"""Keep the file tree of docs/architecture.md equal to the files that exist.

    python docs/file_tree.py            # prints the tree
    python docs/file_tree.py --write    # writes it into the page

Order and descriptions are the page's own. A new file comes last in its folder, described by the
first sentence of its docstring; move and rewrite its line there. A file that is gone leaves the
tree.
"""

import argparse
import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "architecture.md"
OPENING = "<!-- file tree -->\n```text\n"
CLOSING = "\n```"
PACKAGE = "eagle_hf"
ENDINGS = (".py", ".jinja", ".cpp", ".h")
WHOLE_FOLDERS = ("bundled", "custom_generate")  # described as a folder, their files are not listed
INDENT = 2
COLUMN = 28  # where descriptions begin
LONGEST = 70  # characters of a description that is taken from a docstring
UNKNOWN = 10_000  # the place of an entry that the page does not know yet


def is_listed(path: Path) -> bool:
    """Whether a file or folder of the package has a line of its own."""
    if path.is_dir():
        has_code = path.name != "__pycache__" and any(path.rglob("*.py"))
        return has_code or path.name in WHOLE_FOLDERS
    if path.name == "__init__.py":
        return path.parent.name == PACKAGE  # the others only name what their room exports
    return path.suffix in ENDINGS


def entry_name(path: Path) -> str:
    """The path from the repository's root, folders with a slash at their end."""
    name = path.relative_to(ROOT).as_posix()
    return name + "/" if path.is_dir() else name


def first_sentence(path: Path) -> str:
    """What a file's docstring promises first."""
    if path.is_dir():
        path = path / "__init__.py"
    if path.suffix != ".py" or not path.is_file():
        return ""
    docstring = ast.get_docstring(ast.parse(path.read_text())) or ""
    paragraph = " ".join(docstring.split("\n\n")[0].split())
    sentence = paragraph.split(". ")[0].removesuffix(".")
    if len(sentence) > LONGEST:
        sentence = re.split(r"[:;] ", sentence)[0]
    return sentence


def read_block(page: str) -> str:
    """The tree as it stands in the page."""
    return page.split(OPENING)[1].split(CLOSING)[0]


def parse_tree(block: str) -> dict[str, str]:
    """Paths of a printed tree and their descriptions, in its order."""
    descriptions: dict[str, str] = {}
    folders: list[str] = []
    for line in block.splitlines():
        depth = (len(line) - len(line.lstrip())) // INDENT
        name, _, description = line.strip().partition(" ")
        folders = folders[:depth]
        descriptions["".join(folders) + name] = description.strip()
        if name.endswith("/"):
            folders.append(name)
    return descriptions


def known_name(path: Path, known: dict[str, str]) -> str | None:
    """The entry of the page that a file or folder continues, None where it is new.

    A module that became a folder keeps the place and the description of the module.
    """
    name = entry_name(path)
    module = name.removesuffix("/") + ".py"
    for candidate in (name, module):
        if candidate in known:
            return candidate
    return None


def describe(path: Path, known: dict[str, str]) -> str:
    """The page's description of a file or folder, else its own."""
    name = known_name(path, known)
    return (known[name] if name else "") or first_sentence(path)


def tree_lines(folder: Path, known: dict[str, str], depth: int = 0) -> list[str]:
    """The lines of a folder and of everything below it."""
    order = list(known)

    def place(path: Path) -> tuple[int, str]:
        name = known_name(path, known)
        return (order.index(name) if name else UNKNOWN, entry_name(path))

    lines = [format_line(folder.name + "/", describe(folder, known), depth)]
    if folder.name in WHOLE_FOLDERS:
        return lines
    for path in sorted(filter(is_listed, folder.iterdir()), key=place):
        if path.is_dir():
            lines += tree_lines(path, known, depth + 1)
        else:
            lines.append(format_line(path.name, describe(path, known), depth + 1))
    return lines


def format_line(name: str, description: str, depth: int) -> str:
    """One line: the name, indented by its depth, and its description in a column."""
    start = " " * (INDENT * depth) + name
    width = max(COLUMN, len(start) + 1)
    return f"{start:<{width}}{description}".rstrip()


def current_tree() -> str:
    """The tree of the files that exist, with the page's descriptions."""
    known = parse_tree(read_block(PAGE.read_text()))
    return "\n".join(tree_lines(ROOT / PACKAGE, known))


def main() -> None:
    parser = argparse.ArgumentParser(description="The file tree of docs/architecture.md.")
    parser.add_argument("--write", action="store_true", help="write it into the page")
    options = parser.parse_args()
    tree = current_tree()
    if options.write:
        page = PAGE.read_text()
        PAGE.write_text(page.replace(OPENING + read_block(page), OPENING + tree))
    else:
        print(tree)


if __name__ == "__main__":
    main()
