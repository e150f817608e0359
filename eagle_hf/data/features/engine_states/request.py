"""What an engine is asked for: the texts, as tokens, and the states of each of their tokens.

folder/manifest.json    the target, its dtype, and the states (see `read_layer_states`)
folder/tokens.jsonl     {"name": ..., "token_ids": [...]}, each text once
folder/states/          name.safetensors, written by the engine
"""

import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from eagle_hf.data.features.capture_plan import PlannedConversation, scan_examples
from eagle_hf.data.features.engine_states.files import SUFFIX
from eagle_hf.data.features.engine_states.needed import needed_states
from eagle_hf.data.manifest import MANIFEST, check_manifest, library_versions
from eagle_hf.data.rows import Example, SkippedRow
from eagle_hf.provenance import dtype_name, weights_fingerprint
from eagle_hf.target import context_length, unwrap

TOKENS_FILE = "tokens.jsonl"
STATES_FOLDER = "states"
FORMAT = 1  # of the folder
# Fields of the manifest that two requests in one folder must have in common.
SETTINGS = ("target_weights", "layer_ids", "dtype")


@dataclass
class EngineRequest:
    """What one call of `write_engine_request` wrote.

    Attributes:
        texts: that the engine is asked to read; each is asked for once.
        there: texts among them whose states are there already.
        tokens: of the texts that are still to be read.
        bytes: of their states.
        left_out: conversations that the engine cannot read.
    """

    texts: int = 0
    there: int = 0
    tokens: int = 0
    bytes: int = 0
    left_out: list[SkippedRow] = field(default_factory=list)


def write_engine_request(
    target: PreTrainedModel,
    examples: Sequence[Example],
    folder: str | Path,
    *,
    layer_ids: Sequence[int],
) -> EngineRequest:
    """Write down what `recipes/engine_states.py` has vLLM read.

    Called again, it adds examples; states that are there stay.

    Args:
        target: whose features are wanted, without an adapter. It computes nothing here.
        examples: of `prepare_examples`.
        folder: a local folder that both can open.
        layer_ids: layers whose inputs are the aux hidden states.

    Returns:
        What was written.

    Raises:
        ValueError: unusable examples; an adapter; a folder of another target, dtype or layers; a
            disk that is too small for the states.
    """
    folder = Path(folder)
    model = unwrap(target)
    if model is not target:
        raise ValueError(
            f"the target is wrapped ({type(target).__name__}) and the engine would read the plain "
            "model; merge the adapter and save the result, or capture in process"
        )
    config = model.config.get_text_config()
    conversations, _ = scan_examples(examples, config.vocab_size)
    request = EngineRequest()
    texts = _choose_texts(conversations, context_length(target), request)
    state_ids = needed_states(target, layer_ids)
    bytes_a_token = len(state_ids) * config.hidden_size * torch.empty(0, dtype=model.dtype).itemsize
    for text in texts:
        if (folder / STATES_FOLDER / f"{text.tokens_key}{SUFFIX}").exists():
            request.there += 1
        else:
            request.tokens += text.length
    request.texts = len(texts)
    request.bytes = request.tokens * bytes_a_token
    check_manifest(folder, _describe(target, layer_ids, state_ids), SETTINGS)
    _check_disk(folder, request.bytes)
    (folder / STATES_FOLDER).mkdir(exist_ok=True)
    _write_tokens(folder / TOKENS_FILE, examples, texts)
    return request


def check_request(folder: Path, target: PreTrainedModel, layer_ids: Sequence[int]) -> None:
    """Refuse a folder that was written for another target, dtype or other layers.

    Args:
        folder: with a manifest, or without one: then there is nothing to compare.
        target: whose features are wanted.
        layer_ids: whose inputs are the aux hidden states.

    Raises:
        ValueError: names all that differs.
    """
    if (folder / MANIFEST).exists():
        state_ids = needed_states(target, layer_ids)
        check_manifest(folder, _describe(target, layer_ids, state_ids), SETTINGS)


def _describe(
    target: PreTrainedModel, layer_ids: Sequence[int], state_ids: list[int]
) -> dict[str, Any]:
    """The manifest of a folder."""
    return {
        "format": FORMAT,
        "step": "engine states",
        "target": getattr(target, "name_or_path", ""),
        "target_weights": weights_fingerprint(target),
        "layer_ids": list(layer_ids),
        "state_ids": state_ids,
        "dtype": dtype_name(target),
        "versions": library_versions(),
    }


def _choose_texts(
    conversations: list[PlannedConversation], limit: int | None, request: EngineRequest
) -> list[PlannedConversation]:
    """Each text once, without those that are too long for an engine, which are noted."""
    texts = {}
    for conversation in conversations:
        # An engine reads a prompt in order to write at least one token behind it.
        if limit is not None and conversation.length >= limit:
            reason = (
                f"it has {conversation.length} tokens, and an engine reads at most {limit - 1} of "
                f"this target's {limit} positions"
            )
            request.left_out.append(SkippedRow(conversation.id, reason))
        else:
            texts.setdefault(conversation.tokens_key, conversation)
    if not texts:
        raise ValueError(
            f"all {len(conversations)} conversations are too long for an engine; the target has "
            f"{limit} positions: capture in process, or take shorter conversations"
        )
    return list(texts.values())


def _check_disk(folder: Path, needed: int) -> None:
    """Refuse a disk that cannot hold the states."""
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise ValueError(
            f"the states take {needed / 1e6:,.1f} MB and the disk of {folder} has "
            f"{free / 1e6:,.1f} MB free; choose another folder, or ask for fewer conversations"
        )


def _write_tokens(
    path: Path, examples: Sequence[Example], texts: Sequence[PlannedConversation]
) -> None:
    """Write the tokens of all texts; the file appears whole or not at all."""
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    with temporary.open("w", encoding="utf-8") as file:
        for text in texts:
            ids = torch.as_tensor(examples[text.number]["input_ids"]).tolist()
            file.write(json.dumps({"name": text.tokens_key, "token_ids": ids}) + "\n")
    os.replace(temporary, path)
