"""The target of a run: weights are read when a step needs them, and once.

Masks, limits and fingerprints need no weights, so a target that only servers hold is enough.
"""

import hashlib
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from eagle_hf.data import eos_token_ids
from eagle_hf.data.examples.masking import stored_eos_token_ids
from eagle_hf.data.examples.preparing import length_limit
from eagle_hf.evaluation import open_target
from eagle_hf.pipeline.settings import DataConfig
from eagle_hf.target.gguf import resolve
from eagle_hf.target.tokenizers import open_tokenizer
from eagle_hf.target.weightless import open_without_weights

SAMPLED_BYTES = 65536  # of the beginning and of the end of every file of a local target


class RunTarget:
    """The target of a run.

    Args:
        config: of the run.
        opened: `(target, tokenizer)` where the caller has opened it already.
    """

    def __init__(self, config: DataConfig, opened: tuple[Any, Any] | None = None):
        self.config = config
        self._model, self._tokenizer = opened or (None, None)

    def model(self, work: str) -> Any:
        """The target with its weights.

        Args:
            work: what it is opened for, where that is still to be done: see `load_target`.

        Returns:
            The model, frozen.
        """
        if self._model is None:
            config = self.config
            self._model, self._tokenizer = open_target(
                config.target,
                config.adapter,
                tokenizer=config.tokenizer,
                dtype=config.target_dtype,
                work=work,
            )
        return self._model

    @property
    def tokenizer(self) -> Any:
        """The target's tokenizer."""
        if self._tokenizer is None:
            config = self.config
            self._tokenizer = open_tokenizer(
                resolve(config.target), config.adapter, config.tokenizer, {}
            )
        return self._tokenizer

    def eos_token_ids(self) -> set[int]:
        """The tokens that end a turn."""
        if self._model is not None:
            return eos_token_ids(self._model, self._tokenizer)
        return stored_eos_token_ids(resolve(self.config.target), self.tokenizer)

    def length_limit(self, max_length: int | None) -> int | None:
        """How long a conversation may be that the target is to read, in tokens; None: any."""
        return length_limit(self._without_weights(), max_length)

    def fingerprint(self) -> str:
        """Of the files of a local target, adapter and tokenizer; of others the name.

        Every file is sampled at both ends, so it costs milliseconds. Training moves every weight.
        """
        digest = hashlib.sha256()
        config = self.config
        for name in (config.target, config.adapter, config.tokenizer):
            digest.update(repr(_sampled_files(name)).encode())
        return digest.hexdigest()

    def _without_weights(self) -> PreTrainedModel:
        """The opened target, else the model of its config."""
        if self._model is not None:
            return self._model
        return open_without_weights(self.config.target)


def _sampled_files(name: str | None) -> list[tuple[str, int, str]] | str | None:
    """Name, size and a digest of both ends of every file; the name where it is not local."""
    if name is None or not Path(name).exists():
        return name
    path = Path(name)
    files = [path] if path.is_file() else sorted(path.iterdir())
    found = []
    for file in files:
        # Hidden files and folders are those of tools, such as a download's cache.
        if file.name.startswith(".") or not file.is_file():
            continue
        size = file.stat().st_size
        with file.open("rb") as opened:
            ends = opened.read(SAMPLED_BYTES)
            opened.seek(max(0, size - SAMPLED_BYTES))
            ends += opened.read(SAMPLED_BYTES)
        found.append((file.name, size, hashlib.sha256(ends).hexdigest()))
    return found
