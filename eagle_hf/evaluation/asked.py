"""What answers belong to, beside the settings of a command: they are kept for nothing else."""

import hashlib
import json
import platform
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

from transformers import PreTrainedTokenizerBase

from eagle_hf.data.prompts.long_texts import is_long, long_length
from eagle_hf.data.prompts.suites import load_suite, with_template_variables
from eagle_hf.data.rows import Prompt, question_of
from eagle_hf.evaluation.arguments import AnswerArguments
from eagle_hf.provenance import machine, weights_fingerprint
from eagle_hf.target import context_length

VERSIONS = ("eagle_hf", "torch", "transformers")


def load_asked(
    arguments: AnswerArguments,
    per_category: int | None,
    target: Any,
    tokenizer: PreTrainedTokenizerBase,
) -> list[Prompt]:
    """The prompts that a command was asked to measure on.

    Args:
        arguments: of the command.
        per_category: most prompts of each category.
        target, tokenizer: who answers.

    Returns:
        The prompts, with the variables of the chat template.

    Raises:
        ValueError: as `load_suite`; or the target's context is too short for long prompts.
    """
    context = context_length(target)
    for name in arguments.categories:
        if context is None or not is_long(name):
            continue
        needed = long_length(name) + arguments.max_new_tokens
        if needed > context:
            raise ValueError(
                f"{name} and {arguments.max_new_tokens} new tokens need {needed} tokens, and the "
                f"target's context has {context}; take shorter ones"
            )
    prompts = load_suite(arguments.categories, per_category, tokenizer=tokenizer)
    return with_template_variables(prompts, tokenizer, arguments.chat_template_kwargs)


def facts_of(target: Any, prompts: Sequence[Prompt]) -> dict[str, Any]:
    """The machine, the versions, and fingerprints of target and prompts.

    Args:
        target: who answers.
        prompts: what is asked.

    Returns:
        machine, versions, target_fingerprint and prompts_fingerprint, as JSON holds them.
    """
    versions = {name: version(name) for name in VERSIONS}
    return {
        "machine": machine(target),
        "versions": versions | {"python": platform.python_version()},
        "target_fingerprint": weights_fingerprint(target),
        "prompts_fingerprint": prompts_fingerprint(prompts),
    }


def prompts_fingerprint(prompts: Sequence[Prompt]) -> str:
    """A sha256 of all that prompts ask, in hexadecimal digits."""
    asked = [[prompt["id"], prompt["category"], question_of(prompt)] for prompt in prompts]
    return hashlib.sha256(json.dumps(asked, default=str).encode()).hexdigest()
