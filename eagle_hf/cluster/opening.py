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
    TargetAnswerer,
    TemplateArguments,
    template_sha256,
)
from eagle_hf.data.answers import Answerer
from eagle_hf.data.answers.responses import with_date_of
from eagle_hf.data.manifest import library_versions
from eagle_hf.head.modeling import Eagle3DraftHead
from eagle_hf.pipeline import DataConfig, RunTarget, serving_settings
from eagle_hf.pipeline.local import api_key
from eagle_hf.target import choose_aux_layer_ids

# Fields of the manifest that two runs in one folder must have in common.
COMMON = ("step", "chat_template_kwargs", "max_new_tokens", "temperature", "seed")
OF_TARGET = (*COMMON, "target_weights", "template_sha256")
OF_SERVERS = (*COMMON, "model", "request_fields")
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
        head = self.config.features.head
        layer_ids = None
        if head is not None:
            layer_ids = Eagle3DraftHead.from_pretrained(head).config.aux_layer_ids
        return OpenedTarget(target, run.tokenizer, layer_ids or choose_aux_layer_ids(target))


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
        settings = self.config.answers
        target = run.model("batch")
        return TargetAnswerer(
            target,
            run.tokenizer,
            max_new_tokens=settings.max_new_tokens,
            batch_size=settings.batch_size,
            temperature=settings.temperature,
            seed=settings.seed,
            max_length=settings.max_length,
            template_arguments=self.arguments,
        )

    def _client(self, run: RunTarget) -> ServedAnswerer:
        """A client of the servers, which are asked for their models."""
        settings = replace(
            serving_settings(self.config),
            concurrency=self.concurrency,
            template_arguments=self.arguments,
        )
        recovery = IdRecovery(run.tokenizer, run.eos_token_ids())
        answerer = ServedAnswerer(self.config.answers.servers, settings, recovery, self.api_key)
        asyncio.run(answerer.check_servers())
        return answerer

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
        settings = self.config.answers
        common = {
            "target": self.config.target,
            "chat_template_kwargs": dict(self.arguments.variables) or None,
            "date": self.arguments.date.isoformat(),
            "max_new_tokens": settings.max_new_tokens,
            "temperature": settings.temperature,
            "seed": settings.seed,
            "executor": self.config.executor,
            "versions": library_versions(),
        }
        if settings.servers:
            fields = {"step": "served responses", "model": model}
            return common | fields | {"request_fields": dict(settings.request_fields)}
        return common | {
            "step": "responses",
            "target_weights": model,
            "template_sha256": template_sha256(run.tokenizer),
        }

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
