"""OpenAI-compatible servers answer every prompt; an interrupted run goes on where it stopped."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from eagle_hf.data.answers.answerer import ServedAnswerer
from eagle_hf.data.answers.collecting import answer_into_folder
from eagle_hf.data.answers.manifests import OF_SERVERS, servers_manifest, with_date_of
from eagle_hf.data.answers.recovery import IdRecovery
from eagle_hf.data.answers.report import AnswerReport
from eagle_hf.data.answers.running import run_to_end
from eagle_hf.data.answers.settings import ServingSettings
from eagle_hf.data.manifest import library_versions
from eagle_hf.data.rows import Prompt, check_prompts


def write_served_responses(
    servers: Sequence[str],
    prompts: Sequence[Prompt],
    folder: str | Path,
    settings: ServingSettings,
    *,
    recovery: IdRecovery | None = None,
    api_key: str | None = None,
) -> AnswerReport:
    """Let servers answer all turns of all prompts, and write the conversations to a folder.

    Args:
        servers: addresses of OpenAI-compatible servers that all serve the target.
        prompts: user turns with distinct ids.
        folder: on a local disk; is made where it does not exist. It keeps the date of its first
            run.
        settings: the target's name on the servers, and how they are asked.
        recovery: fills in token ids that the servers do not give. None: they stay missing.
        api_key: sent to every server. It is kept nowhere.

    Returns:
        What this run answered, skipped and failed to answer.

    Raises:
        ValueError: impossible arguments; a variable that the template of `recovery` never reads; a
            server that does not list the target, or answers with another model; a folder made with
            other settings; or a run in which no prompt got a response.
    """
    check_prompts(prompts)
    folder = Path(folder)
    arguments = with_date_of(folder, settings.template_arguments)
    if recovery is not None:
        arguments.check_read_by(recovery.template)
    settings = replace(settings, template_arguments=arguments)
    answerer = ServedAnswerer(servers, settings, recovery, api_key)

    async def answer() -> AnswerReport:
        # Refuse what cannot work before anything is written.
        await answerer.check_servers()
        manifest = _manifest(settings, servers)
        return await answer_into_folder(answerer, prompts, folder, manifest, OF_SERVERS)

    return run_to_end(answer)


def _manifest(settings: ServingSettings, servers: Sequence[str]) -> dict[str, Any]:
    """What makes the folder; `OF_SERVERS` of it must not change."""
    return servers_manifest(settings) | {
        "target": settings.model,
        "servers": list(servers),
        "versions": library_versions(("eagle_hf", "aiohttp", "stamina")),
    }
