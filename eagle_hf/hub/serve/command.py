"""What is asked for, and what is answered: a request, and a script with its caveats."""

import re
import textwrap
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from eagle_hf.head.configuration import Eagle3Config
from eagle_hf.head.trees import TreeConfig
from eagle_hf.hub.engines import Engine

WIDTH = 118  # columns of a caveat in the script
LOOKUP = 4  # last tokens that an n-gram method looks up in the text


@dataclass(frozen=True)
class Caveat:
    """What to know before a script is run.

    Args:
        text: One or two sentences.
        source: How it is known: an engine's version, read or run, or another place.
    """

    text: str
    source: str


@dataclass(frozen=True)
class ServeCommand:
    """A script for the shell, and what to know before it is run.

    Args:
        engine: The engine, as it is typed.
        version: The engine's versions that the script was made for.
        lines: The script, command by command.
        caveats: What to know.
    """

    engine: str
    version: str
    lines: tuple[str, ...]
    caveats: tuple[Caveat, ...]

    def text(self) -> str:
        """The script with version and caveats as comments; to print, to paste or to run."""
        lines = [f"# {self.version}", *self.lines, ""]
        for caveat in self.caveats:
            text = f"- {caveat.text} ({caveat.source})"
            comment = textwrap.fill(text, WIDTH, initial_indent="# ", subsequent_indent="#   ")
            lines.append(comment)
        return "\n".join(lines)


@dataclass(frozen=True)
class Request:
    """What is asked for, checked.

    Args:
        engine: The engine.
        target: Hub id or folder of the target.
        head: That of the drafter, or of its export for this engine; None without one.
        method: One of METHODS.
        tree: A tree that the engine can draft.
        tp: GPUs that share the target.
        config: The head's, with the method "eagle3"; else None.
    """

    engine: Engine
    target: str
    head: str | None
    method: str
    tree: TreeConfig
    tp: int
    config: Eagle3Config | None

    @property
    def file_names(self) -> tuple[str, str]:
        """Names for the files of target and drafter that differ."""
        target = file_name(self.target)
        drafter = file_name(self.head) if self.head else target
        return target, (drafter if drafter != target else f"{target}-drafter")

    @property
    def num_drafts(self) -> int:
        """Tokens drafted a round; a tree cannot have more than are proposed for it."""
        top_k = self.tree.top_k
        # top_k nodes below the root, and top_k children of top_k nodes on each further level.
        proposed = top_k + (self.tree.depth - 1) * top_k**2
        return min(self.tree.nodes, proposed)

    def cite_read(self, *texts: str) -> list[Caveat]:
        """Caveats that were read from the engine's sources."""
        return cite(self.engine.read, texts)

    def cite_run(self, *texts: str) -> list[Caveat]:
        """Caveats that were seen with the engine at work."""
        return cite(self.engine.run, texts)


def cite(source: str, texts: Iterable[str]) -> list[Caveat]:
    """Caveats from one source."""
    return [Caveat(text, source) for text in texts]


def file_name(name: str) -> str:
    """A file name made of a hub id or folder."""
    return re.sub(r"[^\w.-]+", "-", Path(name).name).strip("-") or "model"
