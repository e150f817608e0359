"""Values of an untrusted config.json: of the right kind and size, or refused by name."""

import math
from typing import Any

# sizes are compared with the weights later; these few could allocate much before that
LARGEST = {"vocab_size": 2**24, "draft_vocab_size": 2**24, "num_aux_hidden_states": 64}
LARGEST_SIZE = 2**31
LARGEST_NUMBER = 1e30
LARGEST_TOKEN = 2**31
MAX_LAYERS = 2**16


def get_table(config: dict[str, Any], key: str) -> dict[str, Any]:
    """The table under a key, empty where there is none; ValueError where it is something else."""
    value = config.get(key)
    if value is not None and not isinstance(value, dict):
        raise ValueError(f"{key} is {shorten(value)}; needed is a table of keys and values")
    return value or {}


def get_layer_ids(table: dict[str, Any], key: str) -> list[int] | None:
    """The list of layers under a key, None where there is none; ValueError for anything else."""
    ids = table.get(key)
    if ids is None:
        return None
    if not isinstance(ids, list) or not all(_is_layer_id(index) for index in ids):
        raise ValueError(f"{key} is {shorten(ids)}; needed is a list of layers' numbers")
    return ids


def check_size(key: str, value: Any) -> int:
    """The value, if it is a count of something that a head can have."""
    most = LARGEST.get(key, LARGEST_SIZE)
    if type(value) is not int or not 1 <= value <= most:
        raise ValueError(f"{key} is {shorten(value)}; needed is an integer from 1 to {most}")
    return value


def check_number(key: str, value: Any) -> float:
    """The value, if it is a finite number."""
    is_number = type(value) in (int, float)
    if not is_number or not -LARGEST_NUMBER < value < LARGEST_NUMBER:
        raise ValueError(f"{key} is {shorten(value)}; needed is a number")
    return value


def check_flag(key: str, value: Any) -> bool:
    """The value, if it is true or false."""
    if type(value) is not bool:
        raise ValueError(f"{key} is {shorten(value)}; needed is true or false")
    return value


def check_token(key: str, value: Any) -> int | list[int] | None:
    """The value, if it is a token id, a list of them, or None."""
    if value is None:
        return None
    ids = value if isinstance(value, list) else [value]
    if not all(_is_token_id(token) for token in ids):
        raise ValueError(f"{key} is {shorten(value)}; needed is a token id or a list of them")
    return value


def check_rope_value(key: str, value: Any) -> Any:
    """The value, if it is a word, a flag, a number or a list of numbers."""
    if isinstance(value, (str, bool)):
        return value
    if isinstance(value, list):
        return [check_number(f"RoPE's {key}", part) for part in value]
    return check_number(f"RoPE's {key}", value)


def shorten(value: Any) -> str:
    """A value for an error message, however hostile.

    An integer of thousands of digits cannot even be printed.
    """
    if type(value) is int and abs(value) >= 2**64:
        digits = int(math.log10(2) * value.bit_length()) + 1
        return f"an integer of {digits} digits"
    if isinstance(value, (list, dict)):
        return f"a {type(value).__name__} of {len(value)}"
    return f"{value!r:.40}"


def _is_layer_id(index: Any) -> bool:
    return type(index) is int and 0 <= index < MAX_LAYERS


def _is_token_id(token: Any) -> bool:
    return type(token) is int and -1 <= token < LARGEST_TOKEN
