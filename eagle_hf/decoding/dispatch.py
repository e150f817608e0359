"""How `generate(assistant_model=head)` reaches the loop.

transformers is taught once, by `register`: its validation, its assisted decoding and its pipelines
ask first whether the assistant is one of ours. Assistants that are not ours go to the originals
untouched.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

from transformers.utils import logging

from eagle_hf.compat import AssistedCall, patch_generate, patch_pipelines
from eagle_hf.decoding.assistants import Assistant, as_assistant
from eagle_hf.decoding.assistants.nobody import Nobody
from eagle_hf.decoding.attached import attached
from eagle_hf.decoding.checks import check_call, check_fixed_size, check_inputs
from eagle_hf.decoding.compiling import is_compiled
from eagle_hf.decoding.draft_length import asked_chain
from eagle_hf.decoding.loop import speculate
from eagle_hf.planning.policies import PlainPolicy

logger = logging.get_logger(__name__)


def register(decode_by_machine: Callable[[Any, Any, AssistedCall], Any]) -> None:
    """Teach `generate` about draft heads; calling it again changes nothing.

    Args:
        decode_by_machine: decodes for a target and an assistant whose tree the machine chooses.
            It measures the machine, which is done in a room above this one.
    """

    decode = partial(decode_assisted, decode_by_machine)
    patch_generate(as_assistant, check_call, decode, decode_alone)
    patch_pipelines(as_assistant)


def decode_assisted(
    decode_by_machine: Callable[[Any, Any, AssistedCall], Any],
    target,
    assistant: Assistant,
    call: AssistedCall,
):
    """What `generate` returns with one of our assistants.

    Args:
        decode_by_machine: as in `register`.
        target: the model that verifies.
        assistant: who drafts; `check_call` has found that it fits.
        call: what generate has prepared.

    Raises:
        ValueError: the prepared inputs are none that trees can follow.
    """
    check_inputs(target, call)
    assistant.check_rows(len(call.input_ids))
    chain = asked_chain(assistant, call.generation_config)
    if chain is None and assistant.chooses_by_machine:
        return decode_by_machine(target, assistant, call)
    if isinstance(assistant, Nobody):
        return speculate(target, assistant, call, policy=PlainPolicy())
    tree = chain or assistant.tree
    new_tokens = call.generation_config.max_length - call.input_ids.shape[1]
    check_fixed_size(target, tree, new_tokens)
    return speculate(target, assistant, call, tree)


def decode_alone(target, call: AssistedCall):
    """What `generate` returns without an assistant: by what is attached, or the compiled forward.

    None for a target that was not given to `compile_target`, and, said once, for a call that the
    loop does not support: transformers then decodes.
    """
    decode = attached(target)
    if decode is not None:
        output = decode(target, call)
        if output is not None:
            return output
    if not is_compiled(target) or call.is_synced:
        return None
    try:
        check_call(target, Nobody(), call.generation_config, {})
        check_inputs(target, call)
    except ValueError as error:
        logger.warning_once(f"this call is not compiled, and decodes as before: {error}")
        return None
    return speculate(target, Nobody(), call, policy=PlainPolicy())
