"""What a worker opens: the run's target, or a client of its servers."""

import asyncio
import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from eagle_hf.cluster.capturing import OpenedTarget
from eagle_hf.cluster.stages import Workers
from eagle_hf.data import (
    IdRecovery,
    ServedAnswerer,
    ServingSettings,
    TargetAnswerer,
    TemplateArguments,
)
from eagle_hf.data.answers import Answerer
from eagle_hf.data.answers.manifests import (
    OF_SERVERS,
    OF_TARGET,
    servers_manifest,
    target_manifest,
    with_date_of,
)
from eagle_hf.data.manifest import library_versions
from eagle_hf.pipeline import DataConfig, RunTarget, serving_settings
from eagle_hf.pipeline.local import api_key, captured_layers, in_process_settings

PARTS = "parts"


@dataclass(frozen=True)
class OpenRunTarget:
    """Opens the target of a run to capture its states.

    Attributes:
        config: of the run.
    """

    config: DataConfig

    def __call__(self) -> OpenedTarget:
        run = RunTarget(self.config)
        target = run.model("prefill")
        layer_ids = captured_layers(self.config.features, target)
        return OpenedTarget(target, run.tokenizer, layer_ids)


@dataclass(frozen=True)
class OpenRunAnswerer:
    """Opens what answers in a run.

    Attributes:
        config: of the run.
        arguments: of the chat template, with the date of the folder.
        concurrency: most requests that one worker has in flight at each server.
        api_key: of the servers.
    """

    config: DataConfig
    arguments: TemplateArguments
    concurrency: int
    api_key: str | None

    @classmethod
    def of_run(cls, config: DataConfig, folder: Path, workers: Workers) -> "OpenRunAnswerer":
        """Prepare what the workers open.

        Args:
            config: of the run.
            folder: of the answers.
            workers: that share what the servers can take.

        Raises:
            ValueError: the variable of the servers' key is not set.
        """
        arguments = TemplateArguments.read(config.chat_template_kwargs)
        # Rounded down, because a server's limit is a limit.
        concurrency = max(1, config.answers.concurrency // (workers.most or 1))
        dated = with_date_of(folder, arguments)
        return cls(config, dated, concurrency, api_key(config.answers))

    def __call__(self) -> Answerer:
        run = RunTarget(self.config)
        if self.config.answers.servers:
            return self._client(run)
        return TargetAnswerer(
            run.model("batch"),
            run.tokenizer,
            template_arguments=self.arguments,
            **in_process_settings(self.config.answers),
        )

    def _client(self, run: RunTarget) -> ServedAnswerer:
        """A client of the servers, which are asked for their models."""
        settings = self._serving_settings()
        recovery = IdRecovery(run.tokenizer, run.eos_token_ids())
        answerer = ServedAnswerer(self.config.answers.servers, settings, recovery, self.api_key)
        asyncio.run(answerer.check_servers())
        return answerer

    def _serving_settings(self) -> ServingSettings:
        """How one worker asks the servers."""
        return replace(
            serving_settings(self.config),
            concurrency=self.concurrency,
            template_arguments=self.arguments,
        )

    @property
    def settings(self) -> tuple[str, ...]:
        """Fields of the manifest that an old folder must have in common with this run."""
        return OF_SERVERS if self.config.answers.servers else OF_TARGET

    def manifest(self, model: str, run: RunTarget) -> dict[str, Any]:
        """What makes the folder, with the fields of `write_responses`.

        Args:
            model: as the workers call the target.
            run: the target of the run, for its tokenizer.
        """
        others = {
            "target": self.config.target,
            "executor": self.config.executor,
            "versions": library_versions(),
        }
        settings = self.config.answers
        if settings.servers:
            return servers_manifest(self._serving_settings()) | others
        shared = target_manifest(
            fingerprint=model,
            tokenizer=run.tokenizer,
            arguments=self.arguments,
            max_new_tokens=settings.max_new_tokens,
            temperature=settings.temperature,
            seed=settings.seed,
        )
        return shared | others

    def parts_url(self, folder: Path, manifest: dict[str, Any]) -> str:
        """Where turns of this run are on their way: no run of other settings reads them there.

        Args:
            folder: of the answers.
            manifest: of this run.

        Returns:
            A folder or URL in `cluster.storage`, else in the folder of the answers.
        """
        storage = self.config.cluster.storage
        run: dict[str, Any] = {name: manifest[name] for name in self.settings}
        if storage is not None:
            # Other runs may have the same storage.
            run["folder"] = str(folder.resolve())
        digest = hashlib.sha256(json.dumps(run, sort_keys=True).encode("ascii")).hexdigest()
        return f"{(storage or str(folder.resolve())).rstrip('/')}/{PARTS}/{digest[:16]}"
