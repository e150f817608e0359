"""`eagle-hf check`: what every engine will do with a saved head, or what one really does."""

import shlex
import sys
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from eagle_hf.cli.command import Command
from eagle_hf.evaluation.arguments import DTYPES
from eagle_hf.hub.check import check
from eagle_hf.hub.fix import fix
from eagle_hf.hub.gate import EngineClient, Environment, Gate, GateSettings, Verdict, launcher

SERVED_ENGINES = ("vllm", "llamacpp", "sglang")
# Flags that mean nothing unless an engine is asked.
SERVE_FLAGS = ("engine_python", "engine_options", "url", "served_model", "export_with", "keep")
# And those that say how an engine is started, of which one that runs takes none.
START_FLAGS = ("engine_python", "engine_options", "export_with")


@dataclass(kw_only=True)
class CheckArguments:
    """Which head, with which target, where a corrected one goes, and which engine is asked."""

    head: str = field(
        metadata={
            "help": "Folder or hub id of a head, in any dialect.",
            "positional": True,
            "metavar": "FOLDER_OR_ID",
        }
    )
    target: str | None = field(
        default=None,
        metadata={"help": "Its target, to compare with: hub id, folder, .gguf file, or smollm2."},
    )
    fix: Path | None = field(
        default=None,
        metadata={
            "help": "Write the head, corrected, to this new folder; the exit status is then its.",
            "metavar": "OUT",
        },
    )
    serve: str | None = field(
        default=None,
        metadata={
            "help": "Start this engine, and tell a broken export from a bad head.",
            "choices": SERVED_ENGINES,
        },
    )
    engine_python: Path | None = field(
        default=None,
        metadata={
            "help": "Python of the environment that the engine is installed in; default: this one.",
            "metavar": "PATH",
        },
    )
    engine_options: str = field(
        default="",
        metadata={"help": "More options of the engine's server, as one word with spaces in it."},
    )
    url: str | None = field(
        default=None,
        metadata={"help": "A server of that engine that runs already, with this head in it."},
    )
    served_model: str | None = field(
        default=None, metadata={"help": "The name under which it serves the target."}
    )
    drafts: int = field(default=3, metadata={"help": "Drafts of the engine's chain."})
    categories: list[str] = field(
        default_factory=lambda: ["chat", "code", "math"],
        metadata={"help": "Bundled categories or .jsonl files, for tau."},
    )
    per_category: int = field(default=2, metadata={"help": "Prompts of each."})
    max_new_tokens: int = field(default=64, metadata={"help": "Tokens of each answer."})
    dtype: str = field(
        default="float32",
        metadata={
            "help": "Of the target, here and in the engine; float32 leaves no ties.",
            "choices": tuple(name for name in DTYPES if name != "auto"),
        },
    )
    export_with: str | None = field(
        default=None,
        metadata={
            "help": "Another exporter to be judged: its command, with {head}, {target} and {out} "
            "in it; default: eagle-hf export.",
            "metavar": "COMMAND",
        },
    )
    keep: Path | None = field(
        default=None,
        metadata={"help": "New folder for gate.json, the exported heads and the engine's logs."},
    )

    def __post_init__(self) -> None:
        if self.serve is None:
            given = [name for name in SERVE_FLAGS if getattr(self, name)]
            if given:
                flags = ", ".join(_flag(name) for name in given)
                raise ValueError(f"{flags} without an engine; name it: --serve")
            return
        if self.target is None:
            raise ValueError("--serve asks an engine to serve the target; name it: --target")
        if self.fix is not None:
            raise ValueError("--serve and --fix are two steps: fix the head, then serve the result")
        started = [name for name in START_FLAGS if getattr(self, name)]
        if self.url and started:
            flags = ", ".join(_flag(name) for name in started)
            raise ValueError(f"--url is a server that runs already; leave {flags} out")
        if self.served_model and not self.url:
            raise ValueError(
                "--served-model is a name at a server that runs already: give its --url"
            )

    def gate_settings(self) -> GateSettings:
        """How much the engine is asked."""
        return GateSettings(
            depth=self.drafts,
            new_tokens=self.max_new_tokens,
            categories=tuple(self.categories),
            per_category=self.per_category,
            dtype=self.dtype,
            export_with=self.export_with,
        )


def _flag(name: str) -> str:
    """A field's name as it is typed."""
    return "--" + name.replace("_", "-")


def run(arguments: CheckArguments) -> int:
    """Print what was found; the exit status is 1 for an error, or for what a served head lost."""
    report = check(arguments.head, arguments.target)
    print(report.text())
    if arguments.fix:
        changes = fix(arguments.head, arguments.fix, arguments.target)
        print(f"\n{arguments.fix} holds the head, corrected:")
        for change in changes or ["nothing had to be changed"]:
            print(f"  {change}")
        report = check(arguments.fix, arguments.target)
    if arguments.serve is None:
        return int(report.failed)
    verdict = ask_engine(arguments)
    print(f"\n{verdict.text()}")
    return int(verdict.failed)


def ask_engine(arguments: CheckArguments) -> Verdict:
    """The verdict of an engine that is started for it, or that runs already."""
    assert arguments.serve is not None
    assert arguments.target is not None
    settings = arguments.gate_settings()
    with _folder(arguments.keep) as work:
        # What is missing is said before models are opened.
        if arguments.url:
            client = EngineClient(arguments.serve, arguments.url, arguments.served_model)
            gate = Gate(arguments.head, arguments.target, arguments.serve, settings)
            return gate.compare_running(client, work)
        python = arguments.engine_python or Path(sys.executable)
        options = tuple(shlex.split(arguments.engine_options))
        environment = Environment(arguments.serve, python.absolute(), options)
        gate = Gate(arguments.head, arguments.target, arguments.serve, settings)
        return gate.run(launcher(environment, settings.depth, work), work)


@contextmanager
def _folder(keep: Path | None) -> Generator[Path]:
    """Where files go: a new folder that stays, or one that goes with the block."""
    if keep is None:
        with tempfile.TemporaryDirectory() as folder:
            yield Path(folder)
        return
    if keep.exists() and any(keep.iterdir()):
        raise ValueError(f"{keep} is not empty; give a new folder: --keep")
    keep.mkdir(parents=True, exist_ok=True)
    yield keep.absolute()


COMMAND = Command(
    name="check",
    summary="what eagle_hf, vLLM, SGLang, llama.cpp and OpenVINO will do with a saved head, and "
    "what one of them does when it is started; exit status 1 for an error",
    arguments=CheckArguments,
    run=run,
)
