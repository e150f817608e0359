"""The texts that the privacy rules are held against.

planted.txt   sentences with personal data, each marked as ⟦kind|value⟧
unseen.txt    more of them, written after the rules and used for no change to them
clean.txt     lines without any, which look as if they had some
names.txt     names of persons and places, and lines that only look as if they had some

Keys have a ¦ inside, so that scanners of repositories do not take them for real ones. Line breaks
are written as \\n.
"""

import re
from pathlib import Path
from typing import NamedTuple

FOLDER = Path(__file__).parent
MARKED = re.compile(r"⟦(\w+)\|(.*?)⟧", re.DOTALL)


class Planted(NamedTuple):
    """Personal data in a text."""

    kind: str
    start: int
    end: int


def read_lines(name: str) -> list[str]:
    """The texts of a file, as a user would write them."""
    lines = (FOLDER / name).read_text(encoding="utf-8").splitlines()
    return [line.replace("\\n", "\n").replace("¦", "") for line in lines]


def read_planted(name: str) -> list[tuple[str, list[Planted]]]:
    """The texts of a file without their marks, and what is planted in each."""
    texts = []
    for line in read_lines(name):
        text = ""
        planted = []
        position = 0
        for match in MARKED.finditer(line):
            text += line[position : match.start()]
            planted.append(Planted(match[1], len(text), len(text) + len(match[2])))
            text += match[2]
            position = match.end()
        texts.append((text + line[position:], planted))
    return texts
