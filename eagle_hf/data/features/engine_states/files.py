"""One file of an engine: the states of one text, as vLLM's connector writes them.

    token_ids       int64 [S]
    hidden_states   [S, n, H] in the dtype that the engine computes in

vLLM names a file after its request, or as the request says, and keeps nothing beside these two
tensors. So a file is recognized by its tokens.

S tokens of a text, n states of a token, H hidden size.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open

from eagle_hf.data.features.capture_plan import key_of_tokens
from eagle_hf.data.rows import SkippedRow

TOKENS = "token_ids"
STATES = "hidden_states"
SUFFIX = ".safetensors"
# As safetensors calls them; a target computes in no other.
DTYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}


class EngineFile(NamedTuple):
    """A whole file: where it is, whose states it holds, and in which form.

    Attributes:
        name: of the file, inside its folder.
        tokens_key: of its tokens, see `key_of_tokens`.
        length: S.
        num_states: n.
        hidden_size: H.
        dtype: of the states.
    """

    name: str
    tokens_key: str
    length: int
    num_states: int
    hidden_size: int
    dtype: torch.dtype


def scan_folder(folder: Path) -> Iterator[EngineFile | SkippedRow]:
    """Look into every file of a folder, without reading its states.

    Args:
        folder: that an engine wrote to.

    Yields:
        The files in the order of their names; a row with the reason for one that cannot be used.
    """
    for path in sorted(folder.glob(f"*{SUFFIX}")):
        try:
            yield _open_file(path)
        except (SafetensorError, OSError) as error:
            yield SkippedRow(path.name, f"it cannot be opened, it may be torn ({error})")
        except ValueError as error:
            yield SkippedRow(path.name, str(error))


def _open_file(path: Path) -> EngineFile:
    """What a file says about itself; a ValueError where it is none of vLLM's."""
    with safe_open(path, framework="pt") as file:
        names = set(file.keys())
        if not {TOKENS, STATES} <= names:
            raise ValueError(
                f"it holds {', '.join(sorted(names)) or 'nothing'}, not {TOKENS} and {STATES}"
            )
        tokens = file.get_tensor(TOKENS)
        states = file.get_slice(STATES)
        shape = states.get_shape()
        dtype = states.get_dtype()
    is_one_text = tokens.ndim == 1 and len(shape) == 3
    if not is_one_text:
        raise ValueError(
            f"{TOKENS} has the shape {list(tokens.shape)} and {STATES} {shape}; "
            "[S] and [S, n, H] are needed"
        )
    if dtype not in DTYPES:
        raise ValueError(f"its states are {dtype}; one of {', '.join(DTYPES)} is needed")
    if len(tokens) != shape[0] or len(tokens) == 0:
        raise ValueError(f"it holds {len(tokens)} tokens and the states of {shape[0]}")
    key = key_of_tokens(tokens.long().numpy())
    return EngineFile(path.name, key, *shape, DTYPES[dtype])


def holds_text(path: Path, input_ids: torch.Tensor) -> bool:
    """Whether a file is one of vLLM's and holds the states of a text, good ones or not.

    Args:
        path: of any file, or of none.
        input_ids: the tokens of the text, shape [S].

    Returns:
        Whether it holds states for exactly these tokens.
    """
    try:
        with safe_open(path, framework="pt") as file:
            names = set(file.keys())
            return {TOKENS, STATES} <= names and torch.equal(
                file.get_tensor(TOKENS).long(), input_ids
            )
    except (SafetensorError, OSError):
        return False


def load_states(
    folder: Path, name: str, input_ids: torch.Tensor, remedy: str | None = None
) -> torch.Tensor:
    """Load the states of a text.

    Args:
        folder: that an engine wrote to.
        name: of the file.
        input_ids: the tokens that it must hold, shape [S].
        remedy: what to do about a file that cannot be used. None: have it written anew.

    Returns:
        [S, n, H], as stored.

    Raises:
        ValueError: the file is damaged, holds other tokens, or lacks the states of some.
    """
    if remedy is None:
        remedy = f"delete {name} and run the engine again, which reads only what is missing"
    try:
        with safe_open(folder / name, framework="pt") as file:
            tokens = file.get_tensor(TOKENS)
            states = file.get_tensor(STATES)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{folder / name} cannot be read ({error}); {remedy}") from error
    if not torch.equal(tokens.long(), input_ids):
        raise ValueError(f"{folder / name} holds other tokens than it should; {remedy}")
    if not states.isfinite().all():
        raise ValueError(
            f"the states of {folder / name} are not finite; have the engine compute in bfloat16 "
            f"or float32: {remedy}"
        )
    # A slot of the engine's cache that it never wrote to.
    missing = (states == 0).flatten(1).all(1).nonzero()[:, 0]
    if len(missing):
        raise ValueError(
            f"{folder / name} has no states for {len(missing)} of its {len(states)} tokens, the "
            f"first at position {int(missing[0])}; {remedy}"
        )
    return states
