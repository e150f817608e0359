"""Where the heavy steps run: in this process, or wherever else somebody implements `Executor`.

A stage is given the file that it reads and the folder that it writes. It may be called again with
the same arguments after it was killed, and goes on with what its folder holds.

    stage                 reads                     leaves in its folder
    filter_prompts        prompts.jsonl             prompts.jsonl, privacy.json
    answer_prompts        prompts.jsonl             conversations.jsonl (format 2 rows)
    filter_conversations  conversations.jsonl       conversations.jsonl, privacy.json
    capture_features      examples.jsonl            what `Features` opens

The files of a stage hold the same rows whoever ran it; their order may differ.
"""

from pathlib import Path
from typing import Any, Protocol

from eagle_hf.pipeline.settings import DataConfig

Metrics = dict[str, Any]  # counts of a stage, as JSON holds them


class Executor(Protocol):
    """Runs the stages that take long."""

    def filter_prompts(self, config: DataConfig, prompts: Path, folder: Path) -> Metrics:
        """Take personal data out of prompts, by `config.privacy`.

        Args:
            config: of the run.
            prompts: JSON lines of `Prompt` rows.
            folder: exists. It gets prompts.jsonl and privacy.json (`PrivacyReport.write`).

        Returns:
            `rows`, `unchanged`, `redacted` and `dropped`.
        """
        ...

    def answer_prompts(self, config: DataConfig, prompts: Path, folder: Path) -> Metrics:
        """Let the target answer all turns of all prompts, by `config.answers`.

        Args:
            config: of the run. `max_prompts` is applied already.
            prompts: JSON lines of `Prompt` rows.
            folder: exists. It gets conversations.jsonl, and may hold answers of an earlier run,
                to these prompts or to others: those are not asked again.

        Returns:
            `prompts`, `finished`, `already_there`, `skipped` and `failed`, of which the last four
            add up to the first, and `sampled_tokens`, `cut` and `seconds` of this run.
        """
        ...

    def filter_conversations(
        self, config: DataConfig, conversations: Path, folder: Path
    ) -> Metrics:
        """Leave conversations with personal data in their answers out, by `config.privacy`.

        Args:
            config: of the run.
            conversations: JSON lines of `Conversation` rows.
            folder: exists. It gets conversations.jsonl and privacy.json.

        Returns:
            `rows`, `unchanged`, `redacted` and `dropped`.
        """
        ...

    def capture_features(self, config: DataConfig, examples: Path, url: str) -> Metrics:
        """Write the target's states over examples, by `config.features`.

        Args:
            config: of the run.
            examples: JSON lines of `Example` rows.
            url: a local folder, or what fsspec opens.

        Returns:
            `written`, `already_there`, `tokens`, `bytes`, `shards` and `seconds`.
        """
        ...

    def close(self) -> None:
        """Give back what the executor holds: models, connections, a cluster's actors."""
        ...
