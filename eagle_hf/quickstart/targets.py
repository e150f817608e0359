"""The quickstart's target, in the dtypes that this machine computes fastest in."""

from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from eagle_hf.target import choose_dtype, default_device, load_target

TARGET = "smollm2"


class Targets:
    """The target in several dtypes; each is opened once.

    Attributes:
        device: where all of them are.
    """

    def __init__(self) -> None:
        self.device = default_device()
        self._tokenizer: PreTrainedTokenizerBase | None = None
        self._opened: dict[torch.dtype, Any] = {}

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer, which came with the target that was opened last."""
        assert self._tokenizer is not None, "a target is opened first"
        return self._tokenizer

    def fastest_for(self, work: str) -> Any:
        """Open the target in the dtype that this machine does some work fastest in.

        Args:
            work: as in `choose_dtype`.

        Returns:
            The target.
        """
        return self.in_dtype(choose_dtype(self.device, work))

    def in_dtype(self, dtype: torch.dtype) -> Any:
        """Open the target in a dtype.

        Args:
            dtype: of its weights.

        Returns:
            The target.
        """
        if dtype not in self._opened:
            target, tokenizer = load_target(TARGET, dtype=dtype, device=self.device)
            self._opened[dtype] = target
            self._tokenizer = tokenizer
        return self._opened[dtype]
