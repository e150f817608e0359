"""RoPE whose frequencies follow the longest text of a forward.

Two kinds are known. LongRoPE has one set of frequencies for texts up to its original length and
another for longer ones. Dynamic NTK has its own frequencies for every length beyond the original
one. transformers chooses them by the longest position of the whole batch:

    rows of 12 and 40 tokens, original length 16        the 12 are read as if they were 40

So such rows are no longer independent, and only rows that choose alike may be read together.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from eagle_hf.target.structure import UNLIMITED, unwrap

LONGROPE = "longrope"
DYNAMIC = "dynamic"  # transformers takes every type whose name holds this word for dynamic NTK


@dataclass(frozen=True)
class ChangingRope:
    """A RoPE with several sets of frequencies.

    Args:
        kind: Its `rope_type`.
        limit: The longest text, in tokens, that is read with the original frequencies.
    """

    kind: str
    limit: int

    @property
    def is_dynamic(self) -> bool:
        """Whether every length beyond the limit has its own frequencies."""
        return DYNAMIC in self.kind

    def choice(self, length: int) -> int:
        """Name the frequencies that a text is read with.

        Args:
            length: Its tokens.

        Returns:
            0 for the original frequencies; texts of equal numbers are read with equal ones.
        """
        if length <= self.limit:
            return 0
        return length if self.is_dynamic else 1


def changing_ropes(model: Any) -> list[ChangingRope]:
    """Find the RoPEs of a model whose frequencies change with a text's length.

    Args:
        model: A causal LM.

    Returns:
        None of most models. Models with a RoPE for each type of layer may have several.
    """
    config = unwrap(model).config.get_text_config()
    length = getattr(config, "max_position_embeddings", None) or UNLIMITED
    parameters = getattr(config, "rope_parameters", None) or {}
    by_layer_type = [part for part in parameters.values() if isinstance(part, dict)]
    ropes = []
    for part in [parameters, *by_layer_type]:
        kind = part.get("rope_type") or "default"
        if DYNAMIC in kind:
            ropes.append(ChangingRope(kind, length))
        elif kind == LONGROPE:
            original = part.get("original_max_position_embeddings")
            ropes.append(ChangingRope(kind, original or length))
    return ropes


def rope_limit(model: Any) -> int:
    """Return the longest text that a model reads with its original frequencies.

    Args:
        model: A causal LM.

    Returns:
        In tokens; 2^31 where the frequencies never change.
    """
    return min((rope.limit for rope in changing_ropes(model)), default=UNLIMITED)


def rows_read_together(ropes: Sequence[ChangingRope], lengths: Sequence[int]) -> list[list[int]]:
    """Group the rows of a batch that choose the same frequencies.

    Args:
        ropes: Of the model, as `changing_ropes` finds them.
        lengths: Tokens of each row.

    Returns:
        The numbers of the rows of each group, the shortest texts first. One group where there is
        no such RoPE.
    """
    if not ropes:
        return [list(range(len(lengths)))]
    groups: dict[tuple[int, ...], list[int]] = {}
    for row, length in enumerate(lengths):
        choices = tuple(rope.choice(length) for rope in ropes)
        groups.setdefault(choices, []).append(row)
    return [groups[choices] for choices in sorted(groups)]
