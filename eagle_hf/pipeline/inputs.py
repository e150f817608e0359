"""Where steps lie, and what they read: earlier steps, sources of prompts, the target's files."""

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from eagle_hf.data import conversation_id
from eagle_hf.data.answers import CONVERSATIONS
from eagle_hf.pipeline.records import file_fingerprint
from eagle_hf.pipeline.rows import read_rows, rows_fingerprint, write_rows
from eagle_hf.pipeline.settings import DataConfig
from eagle_hf.pipeline.sharding import Shard
from eagle_hf.pipeline.steps import BY_NAME, Step
from eagle_hf.pipeline.target import RunTarget

# The rows of a step's input that this run uses, where it does not use all.
ASKED = "asked.jsonl"
READ = "read.jsonl"
TARGET = "the target"


class Inputs:
    """What the steps of a run read.

    Args:
        config: of the run.
        target: of the run.
        shard: the part of the run; None for the whole.
        in_parts: names of the steps of which this run makes the shard alone.
    """

    def __init__(
        self,
        config: DataConfig,
        target: RunTarget,
        shard: Shard | None = None,
        in_parts: Sequence[str] = (),
    ):
        self.config = config
        self.target = target
        self.shard = shard
        self.in_parts = in_parts

    @property
    def root(self) -> Path:
        """The folder of this run, or of its shard."""
        if self.shard is None:
            return Path(self.config.output_dir)
        return self.shard.folder(self.config.output_dir)

    def folder(self, step: Step) -> Path:
        """The folder of a step."""
        if step.name in self.in_parts:
            return self.root / step.name
        return Path(self.config.output_dir, step.name)

    def steps(self, step: Step) -> list[str]:
        """The names of the earlier steps that a step reads."""
        last_of_prompts = "privacy" if "privacy" in self.config.steps else "prompts"
        read = {
            "prompts": [],
            "privacy": ["prompts"],
            "answers": [last_of_prompts],
            "conversations": [last_of_prompts, "answers"],
            "examples": ["conversations"],
            "features": ["examples"],
        }
        return read[step.name]

    def files(self, step: Step) -> dict[str, Path]:
        """The files that a step is made from, each by what a report calls it."""
        if step.name == "prompts":
            return self._sources()
        return {f"the output of {name}": self.output_of(name) for name in self.steps(step)}

    def fingerprints(self, step: Step) -> dict[str, str]:
        """The fingerprint of everything that a step reads. Its files exist; none is written."""
        found = {}
        for name, path in self.files(step).items():
            if path == self.prompts() and self.asked() != path:
                found[name] = rows_fingerprint(self.asked_rows())
            elif step.name == "features" and self.read_examples() != path:
                found[name] = rows_fingerprint(self._chosen_examples())
            else:
                found[name] = file_fingerprint(path)
        if step.reads_target:
            found[TARGET] = self.target.fingerprint()
        return found

    def prompts(self) -> Path:
        """All prompts that can be asked."""
        return self.output_of("privacy" if "privacy" in self.config.steps else "prompts")

    def asked(self) -> Path:
        """The prompts that are asked in this run."""
        if "answers" in self.in_parts:
            return self.root / ASKED
        if self.config.max_prompts is None:
            return self.prompts()
        return Path(self.config.output_dir, ASKED)

    def read_examples(self) -> Path:
        """The examples that the target reads in this run."""
        if "features" in self.in_parts:
            return self.root / READ
        return self.output_of("examples")

    def choose(self, step: Step) -> None:
        """Write the rows that a step uses, where it does not use all that there are.

        Args:
            step: that is to be made, by a run that has locked its folder.
        """
        if step.name in ("answers", "conversations") and self.asked() != self.prompts():
            write_rows(self.asked(), self.asked_rows())
        is_part = self.read_examples() != self.output_of("examples")
        if step.name == "features" and is_part:
            write_rows(self.read_examples(), self._chosen_examples())

    def features_url(self) -> str:
        """Where features go; those of a shard into a folder there, so that they can be joined."""
        url = self.config.features.output or str(Path(self.config.output_dir, "features"))
        if "features" not in self.in_parts or self.shard is None:
            return url
        return f"{url.rstrip('/')}/{self.shard.name}"

    def asked_rows(self) -> Iterator[dict[str, Any]]:
        """The rows of `asked`, read from all prompts."""
        shard = self.shard if "answers" in self.in_parts else None
        for row in islice(read_rows(self.prompts()), self.config.max_prompts):
            if shard is None or shard.holds(row["id"]):
                yield row

    def _chosen_examples(self) -> Iterator[dict[str, Any]]:
        """The examples of this shard, all of a conversation in one."""
        assert self.shard is not None, "a run that is not sharded reads all"
        for row in read_rows(self.output_of("examples")):
            if self.shard.holds(conversation_id(row["id"])):
                yield row

    def output_of(self, name: str) -> Path:
        """The file that a step leaves for later ones."""
        step = BY_NAME[name]
        assert step.output is not None, "nothing reads this step"
        return self.folder(step) / step.output

    def _sources(self) -> dict[str, Path]:
        """Local files among the sources of prompts."""
        settings = self.config.prompts
        names = list(settings.sources)
        if settings.mixture_log is not None:
            names.append(settings.mixture_log)
        files = {}
        for name in names:
            path = Path(name)
            file = path / CONVERSATIONS if path.is_dir() else path
            if file.is_file():
                files[name] = file
        return files
