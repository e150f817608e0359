"""The documentation as data: pages, their code blocks, code spans, headings and links."""

import re
import sys
from dataclasses import dataclass
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
OUTPUT = "<!-- output -->"  # the next block is what the Python block above it prints

FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", flags=re.MULTILINE | re.DOTALL)
COMMENT = re.compile(r"<!--.*?-->", flags=re.DOTALL)
SPAN = re.compile(r"`([^`]+)`")
HEADING = re.compile(r"^#+ (.+)$", flags=re.MULTILINE)
LINK = re.compile(r"!?\[(?:[^\[\]]|`[^`]*`)*\]\(([^()\s]+)\)")


@dataclass(frozen=True)
class Block:
    """One fenced block of a page.

    Args:
        language: behind the opening fence, "" where there is none.
        code: the text between the fences.
        line: of the opening fence, counted from 1.
        is_output: whether the page says that the block is the output of the one before it.
    """

    language: str
    code: str
    line: int
    is_output: bool


@dataclass(frozen=True)
class Page:
    """One Markdown file."""

    path: Path

    def __str__(self) -> str:
        return self.name

    @property
    def name(self) -> str:
        """The path from the repository's root."""
        return self.path.relative_to(ROOT).as_posix()

    @property
    def text(self) -> str:
        """Everything in it."""
        return self.path.read_text()

    @property
    def prose(self) -> str:
        """Everything but fenced blocks and comments."""
        return COMMENT.sub("", FENCE.sub("", self.text))

    @property
    def blocks(self) -> list[Block]:
        """Its fenced blocks, in order."""
        found = []
        for match in FENCE.finditer(self.text):
            before = self.text[: match.start()]
            line = before.count("\n") + 1
            is_output = before.rstrip().endswith(OUTPUT)
            found.append(Block(match[1], match[2], line, is_output))
        return found

    @property
    def python(self) -> str:
        """All its Python code, "" where it has none."""
        code = ""
        for block in self.blocks:
            if block.language == "python":
                code += block.code
        return code

    @property
    def spans(self) -> list[str]:
        """Its inline code, as it is between the backticks."""
        return SPAN.findall(self.prose)

    @property
    def headings(self) -> list[str]:
        """Its headings without their marks."""
        return HEADING.findall(self.prose)

    @property
    def links(self) -> list[str]:
        """The destinations of its links and pictures."""
        return LINK.findall(self.prose)


def all_pages() -> list[Page]:
    """README.md and every page of docs/."""
    paths = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
    return [Page(path) for path in paths]


def github_anchor(heading: str) -> str:
    """The anchor that GitHub makes of a heading."""
    kept = re.sub(r"[^\w\s-]", "", heading.lower())
    return kept.strip().replace(" ", "-")


def site_anchor(heading: str) -> str:
    """The anchor that the documentation site makes of a heading."""
    kept = re.sub(r"[^\w\s-]", "", heading).strip().lower()
    return re.sub(r"[-\s]+", "-", kept)


def open_script(path: Path) -> ModuleType:
    """A script as a module of its own, its `main` not run.

    It finds modules beside it, as it does when it is run.
    """
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))
    spec = spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    sys.modules[path.stem] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module
