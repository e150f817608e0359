"""A prompt read in chunks, equal to the whole.

Each chunk of C tokens is read behind those before it in the cache, by the model as transformers'
own `prefill_chunk_size` does, or by its compiled forward. For a prompt of 7 tokens, of which the
first is padding, and C = 3, the model is given:

    slot                 0  1  2  3  4  5  6
    first chunk          x  x  x                 attention mask  0 1 1
    second chunk                  x  x  x        attention mask  0 1 1 1 1 1
    third chunk                            x     attention mask  0 1 1 1 1 1 1

It makes the causal mask of a chunk itself, from the attention mask up to the chunk's end and from
the length of the cache. A compiled forward is given the causal mask.

B batch, S prompt slots, H hidden, V vocabulary.
"""

from collections.abc import Iterable, Iterator
from typing import Any

import torch

from eagle_hf.decoding.forward import Output, TargetForward
from eagle_hf.decoding.masks import TreeMask

# tensors [..., S] of which a chunk takes its own slots
BY_SLOT = ("input_ids", "position_ids", "cache_position")
# [B, S], of which a chunk takes all up to its end
MASK = "attention_mask"


def read_chunks(forward: TargetForward, prepared: dict[str, Any], size: int) -> Output:
    """Let the target read a prompt into its empty cache, `size` tokens at a time.

    Args:
        forward: Of the target.
        prepared: What the target takes for reading the whole prompt, its cache left out; nothing
            that `uncut_argument` names.
        size: Tokens of a chunk.

    Returns:
        Logits [B, n, V] of the last chunk, and aux hidden states [B, S, 3H] of all.
    """
    slots = prepared["input_ids"].shape[1]
    outputs = (forward.read_prompt(**inputs) for inputs in _chunks(prepared, size))
    return _joined(outputs, slots)


def read_compiled_chunks(
    forward: TargetForward, tokens: torch.Tensor, masks: TreeMask, size: int
) -> Output:
    """Let the target's compiled forward read prompts [B, S] as `read_chunks` does.

    Args:
        forward: Of the target, compiled.
        tokens: The prompts.
        masks: What their tokens see.
        size: Tokens of a chunk.
    """
    slots = tokens.shape[1]

    def outputs() -> Iterator[Output]:
        for start in range(0, slots, size):
            end = min(start + size, slots)
            mask, positions = masks.for_text(start, end)
            yield forward.read_text(tokens[:, start:end], positions, mask, base=start)

    return _joined(outputs(), slots)


def _joined(outputs: Iterable[Output], slots: int) -> Output:
    """The logits of the last chunk, and the aux hidden states of all slots."""
    aux = None
    end = 0
    for output in outputs:
        if output.aux is None:
            continue
        rows, read, width = output.aux.shape
        if aux is None:  # written in place: joined at the end, all would be held twice
            aux = output.aux.new_empty(rows, slots, width)
        aux[:, end : end + read] = output.aux
        end += read
    return Output(output.logits, aux)


def uncut_argument(prepared: dict[str, Any]) -> str | None:
    """Return the name of an argument that is not known to be cut; None where all are.

    Images and what belongs to them would have to be cut with their placeholders, and an image's
    tokens may see each other both ways. What is not known here may be of that kind.

    Args:
        prepared: What the target takes for reading the whole prompt, its cache left out.
    """
    slots = prepared["input_ids"].shape[1]
    for name, value in prepared.items():
        if not _can_be_cut(name, value, slots):
            return name
    return None


def _chunks(prepared: dict[str, Any], size: int) -> Iterator[dict[str, Any]]:
    """What the target takes for each chunk of a prompt."""
    slots = prepared["input_ids"].shape[1]
    for start in range(0, slots, size):
        end = min(start + size, slots)
        inputs = dict(prepared)
        for name in BY_SLOT:
            if inputs.get(name) is not None:
                inputs[name] = inputs[name][..., start:end]
        if inputs.get(MASK) is not None:
            inputs[MASK] = inputs[MASK][:, :end]
        yield inputs


def _can_be_cut(name: str, value: Any, slots: int) -> bool:
    """Whether an argument means the same for every chunk, or is cut with a prompt's slots."""
    if isinstance(value, torch.Tensor):
        if name == MASK:
            return value.dim() == 2 and value.shape[1] == slots
        return name in BY_SLOT and value.shape[-1] == slots
    is_setting = value is None or isinstance(value, (bool, int))
    is_empty = isinstance(value, dict) and not value  # the features of no images
    return is_setting or is_empty
