"""What generate's settings for transformers' own assistants mean for ours.

`num_assistant_tokens` is how many tokens are drafted before the target checks them. Set, it asks
for a chain of that length, whatever tree the assistant would draft. The other settings steer
transformers' own loop and change nothing here, which is said once.
"""

from transformers import GenerationConfig
from transformers.utils import logging

from eagle_hf.compat import given_setting
from eagle_hf.decoding.assistants import Assistant
from eagle_hf.head.trees import TreeConfig

logger = logging.get_logger(__name__)

# Settings without a meaning here, and what is there in their place.
UNUSED = {
    "num_assistant_tokens_schedule": 'the tree policy "adaptive" chooses the length every round',
    "assistant_confidence_threshold": 'the tree policy "adaptive" stops where no draft pays',
    "assistant_lookbehind": "target and drafter share a tokenizer, so nothing is encoded again",
    "target_lookbehind": "target and drafter share a tokenizer, so nothing is encoded again",
}


def asked_chain(assistant: Assistant, config: GenerationConfig) -> TreeConfig | None:
    """The chain that a call asks for; None where it leaves the drafts to the assistant.

    Args:
        assistant: who drafts.
        config: of the call. 20 tokens, which is what transformers fills in, count as not set.

    Raises:
        ValueError: where no chain has that length.
    """
    length = given_setting(config, "num_assistant_tokens")
    if length is None:
        return None
    if not isinstance(length, int) or length < 1:
        raise ValueError(
            f"num_assistant_tokens is {length!r}; it counts the tokens drafted a round and must be "
            "an integer of at least 1, or left unset"
        )
    tree = assistant.tree
    if tree.policy != "chain":
        logger.warning_once(
            f"num_assistant_tokens={length}: a chain of {length} tokens is drafted in place of the "
            "assistant's tree; leave it unset for the tree, and shape that by TreeConfig"
        )
    return TreeConfig("chain", depth=length, acceptance=tree.acceptance, compile=tree.compile)


def name_unused(config: GenerationConfig) -> None:
    """Say once which settings of a call change nothing."""
    for name, instead in UNUSED.items():
        value = given_setting(config, name)
        if value is not None:
            logger.warning_once(
                f"{name}={value!r} is for transformers' own assistants and changes nothing: "
                f"{instead}"
            )
