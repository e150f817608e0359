"""The stages in this process: the executor of one machine."""

from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

from tqdm.auto import tqdm
from transformers import PreTrainedModel

from eagle_hf.data import (
    AnswerReport,
    EngineStates,
    IdRecovery,
    PrivacyFilter,
    PrivacyReport,
    PrivacySettings,
    Prompt,
    ServingSettings,
    TemplateArguments,
    capture_features,
    load_conversations,
    read_prompts,
    template_sha256,
    write_responses,
    write_served_responses,
)
from eagle_hf.data.answers.keys import read_key
from eagle_hf.head.modeling import Eagle3DraftHead
from eagle_hf.pipeline.executor import Metrics
from eagle_hf.pipeline.rows import count_lines, print_reasons, read_rows, write_rows
from eagle_hf.pipeline.settings import AnswerStepSettings, DataConfig, FeatureSettings
from eagle_hf.pipeline.target import RunTarget
from eagle_hf.target import choose_aux_layer_ids

Row = TypeVar("Row")


class LocalExecutor:
    """Runs every stage in this process; an `Executor`.

    Args:
        target: of the run.
    """

    def __init__(self, target: RunTarget):
        self.target = target

    def filter_prompts(self, config: DataConfig, prompts: Path, folder: Path) -> Metrics:
        """Take personal data out of prompts; see `Executor`."""
        privacy = PrivacyFilter(privacy_settings(config))
        return _filter_file(privacy, privacy.filter_prompt, prompts, folder)

    def filter_conversations(
        self, config: DataConfig, conversations: Path, folder: Path
    ) -> Metrics:
        """Leave conversations with personal data out; see `Executor`."""
        privacy = PrivacyFilter(privacy_settings(config), self.target.tokenizer)
        return _filter_file(privacy, privacy.filter_conversation, conversations, folder)

    def answer_prompts(self, config: DataConfig, prompts: Path, folder: Path) -> Metrics:
        """Let the target answer, here or on servers; see `Executor`."""
        asked, _ = read_prompts(prompts)
        if config.answers.servers:
            return self._ask_servers(config, asked, folder)
        target = self.target.model("batch")
        report = write_responses(
            target,
            self.target.tokenizer,
            asked,
            folder,
            template_arguments=TemplateArguments.read(config.chat_template_kwargs),
            **in_process_settings(config.answers),
        )
        return counted(report)

    def capture_features(self, config: DataConfig, examples: Path, url: str) -> Metrics:
        """Write the target's states; see `Executor`."""
        settings = config.features
        target = self.target.model("prefill")
        source = None
        if settings.engine_states is not None:
            source = EngineStates(settings.engine_states)
        rows: Any = load_conversations(examples)  # lie on disk
        report = capture_features(
            target,
            rows,
            url,
            layer_ids=captured_layers(settings, target),
            template_sha256=template_sha256(self.target.tokenizer),
            dtype=settings.storage_dtype,
            batch_tokens=settings.batch_tokens,
            source=source,
        )
        return asdict(report) | {"left_out": len(report.left_out)}

    def close(self) -> None:
        """Nothing is held but the target, which is the caller's."""

    def _ask_servers(self, config: DataConfig, asked: list[Prompt], folder: Path) -> Metrics:
        """Let servers answer."""
        settings = config.answers
        recovery = IdRecovery(self.target.tokenizer, self.target.eos_token_ids())
        report = write_served_responses(
            settings.servers,
            asked,
            folder,
            serving_settings(config),
            recovery=recovery,
            api_key=api_key(settings),
        )
        return counted(report)


def privacy_settings(config: DataConfig) -> PrivacySettings:
    """What the privacy room is told."""
    values = asdict(config.privacy)
    if not config.privacy.phone_regions:
        del values["phone_regions"]
    return PrivacySettings.read(values)


def captured_layers(settings: FeatureSettings, target: PreTrainedModel) -> list[int]:
    """The layers whose inputs are kept: those of the head that is named, else EAGLE-3's."""
    layer_ids = None
    if settings.head is not None:
        layer_ids = Eagle3DraftHead.from_pretrained(settings.head).config.aux_layer_ids
    return list(layer_ids or choose_aux_layer_ids(target))


def in_process_settings(settings: AnswerStepSettings) -> dict[str, Any]:
    """How the target answers in a process, as arguments of whatever lets it."""
    return {
        "max_new_tokens": settings.max_new_tokens,
        "batch_size": settings.batch_size,
        "temperature": settings.temperature,
        "seed": settings.seed,
        "max_length": settings.max_length,
    }


def serving_settings(config: DataConfig) -> ServingSettings:
    """How servers are asked."""
    settings = config.answers
    return ServingSettings(
        model=settings.model or config.target,
        max_new_tokens=settings.max_new_tokens,
        temperature=settings.temperature,
        seed=settings.seed,
        concurrency=settings.concurrency,
        timeout_s=settings.timeout_s,
        attempts=settings.attempts,
        patience_s=settings.patience_s,
        request_fields=settings.request_fields,
        template_arguments=TemplateArguments.read(config.chat_template_kwargs),
    )


def api_key(settings: AnswerStepSettings) -> str | None:
    """The servers' key, from the environment; ValueError where it is not there."""
    if settings.api_key_variable is None:
        return None
    try:
        return read_key(settings.api_key_variable)
    except ValueError as error:
        raise ValueError(f"answers.api_key_variable: {error}") from error


def _filter_file(
    privacy: PrivacyFilter, clean: Callable[[Any], Any], source: Path, folder: Path
) -> Metrics:
    """Filter a file of rows into a folder, beside the report."""
    write_rows(folder / source.name, _cleaned(clean, source))
    return keep_report(privacy.report, folder)


def keep_report(report: PrivacyReport, folder: Path) -> Metrics:
    """Write and print what a privacy stage found; its counts."""
    report.write(folder / "privacy.json")
    print(report)
    return {
        "rows": report.rows,
        "unchanged": report.unchanged,
        "redacted": report.redacted,
        "dropped": report.dropped.total(),
    }


def _cleaned(clean: Callable[[Any], Any], source: Path) -> Iterator[dict[str, Any]]:
    """The rows that are left of a file."""
    for row in tqdm(read_rows(source), total=count_lines(source), desc="privacy", unit="row"):
        cleaned = clean(row)
        if cleaned is not None:
            yield cleaned


def counted(report: AnswerReport) -> Metrics:
    """A report as the counts of a stage; the first reasons are printed."""
    print_reasons("skipped", report.skipped)
    print_reasons("not answered", report.failed)
    return {"prompts": report.prompts, **report.counts()}
