"""The stages of a data run on a Ray cluster: an `Executor` for `eagle-hf data --executor ray`.

The folders of a run look as if one machine had made them: a run that began on one goes on on a
cluster, and the other way round.
"""

import asyncio
from pathlib import Path, PurePosixPath

from eagle_hf.cluster.answering import RayAnswerer, ask_model
from eagle_hf.cluster.capturing import CaptureSettings, OpenCapture, capture_file
from eagle_hf.cluster.connection import connect, has_gpus
from eagle_hf.cluster.filtering import OpenFilter, filter_file
from eagle_hf.cluster.opening import OpenRunAnswerer, OpenRunTarget
from eagle_hf.cluster.parts import PartFolder, take_turns
from eagle_hf.cluster.paths import everywhere, for_workers
from eagle_hf.cluster.stages import Workers
from eagle_hf.data import TurnStore, collect_answers, read_prompts
from eagle_hf.data.answers import CONVERSATIONS
from eagle_hf.data.manifest import check_manifest, only_one_run
from eagle_hf.pipeline import DataConfig, RunTarget, privacy_settings
from eagle_hf.pipeline.executor import Metrics
from eagle_hf.pipeline.local import counted, keep_report


class RayExecutor:
    """Runs every stage on the workers of a Ray cluster; an `Executor`.

    Args:
        config: of the run; its `executor` names the cluster.
        target: of the run. Its weights are opened on the workers alone.

    Raises:
        ValueError: Ray is not installed, or no cluster answers.
    """

    def __init__(self, config: DataConfig, target: RunTarget):
        self._ray = connect(config.executor)
        self._target = target

    def filter_prompts(self, config: DataConfig, prompts: Path, folder: Path) -> Metrics:
        """Take personal data out of prompts; see `Executor`."""
        return self._filter(config, prompts, folder, of_conversations=False)

    def filter_conversations(
        self, config: DataConfig, conversations: Path, folder: Path
    ) -> Metrics:
        """Leave conversations with personal data out; see `Executor`."""
        return self._filter(config, conversations, folder, of_conversations=True)

    def answer_prompts(self, config: DataConfig, prompts: Path, folder: Path) -> Metrics:
        """Let the target answer, on workers or on servers that workers ask; see `Executor`."""
        asked, _ = read_prompts(prompts)
        config = for_workers(config)
        workers = self._answer_workers(config)
        opening = OpenRunAnswerer.of_run(config, folder, workers)
        # 1) Refuse what cannot work before anything is written.
        storage = (config.cluster.storage or str(folder.resolve())).rstrip("/")
        model = ask_model(self._ray, opening, workers, storage)
        manifest = opening.manifest(model, self._target)
        parts = PartFolder(opening.parts_url(folder, manifest))
        with only_one_run(folder):
            check_manifest(folder, manifest, opening.settings)
        with TurnStore(folder) as store:
            # 2) What workers of a killed run had finished, and nobody had heard yet.
            take_turns(store, parts.turns(), model, asked)
            # 3) Ask for the rest.
            answerer = RayAnswerer(
                self._ray,
                opening,
                workers=workers,
                parts=parts.url,
                model=model,
                store=store,
                unit_prompts=config.cluster.unit_prompts,
            )
            report = asyncio.run(collect_answers(answerer, asked, store))
        report.check_useful()
        parts.remove()
        if config.cluster.storage is not None:
            # Named like the parts, because other runs may have the same storage.
            copy = f"{storage}/{PurePosixPath(parts.url).name}-{CONVERSATIONS}"
            parts.put(folder / CONVERSATIONS, copy)
            print(f"the conversations are in {copy} too")
        return counted(report)

    def capture_features(self, config: DataConfig, examples: Path, url: str) -> Metrics:
        """Write the target's states, part by part; see `Executor`."""
        config = for_workers(config)
        settings = config.features
        kept = CaptureSettings(
            everywhere(url), settings.storage_dtype, settings.batch_tokens, settings.engine_states
        )
        opening = OpenCapture(OpenRunTarget(config), kept)
        return capture_file(self._ray, opening, self._target_workers(config), examples)

    def close(self) -> None:
        """Let go of the cluster, which goes on."""
        self._ray.shutdown()

    def _filter(
        self, config: DataConfig, source: Path, folder: Path, of_conversations: bool
    ) -> Metrics:
        """Filter a file of rows into a folder, beside the report."""
        settings = config.cluster
        workers = Workers(settings.workers, settings.cpus_per_worker)
        # Answers are also read from their token ids.
        tokenizer = self._target.tokenizer if of_conversations else None
        opening = OpenFilter(privacy_settings(config), of_conversations, tokenizer)
        report = filter_file(self._ray, opening, workers, source, folder / source.name)
        return keep_report(report, folder)

    def _answer_workers(self, config: DataConfig) -> Workers:
        """Who answers: holders of the target, or clients of servers."""
        settings = config.cluster
        if not config.answers.servers:
            return self._target_workers(config)
        most = settings.workers or len(config.answers.servers)
        return Workers(most, settings.cpus_per_worker)

    def _target_workers(self, config: DataConfig) -> Workers:
        """Workers that hold the target."""
        settings = config.cluster
        gpus = settings.gpus_per_worker
        if gpus is None:
            gpus = 1.0 if has_gpus(self._ray) else 0.0
        return Workers(settings.workers, settings.cpus_per_worker, gpus)
