"""The target and its tokenizer, opened when they are first needed: an idle call needs neither."""

from pathlib import Path
from typing import Any

from eagle_hf.data.examples.masking import eos_token_ids
from eagle_hf.data.examples.preparing import length_limit
from eagle_hf.data.manifest import check_manifest, library_versions
from eagle_hf.evaluation import open_head, open_target, weights_fingerprint
from eagle_hf.following.learning import save_whole, stored_dtype
from eagle_hf.following.log_rows import Limits
from eagle_hf.following.settings import FollowSettings
from eagle_hf.following.versions import Versions
from eagle_hf.head.modeling import Eagle3DraftHead
from eagle_hf.target import check_compatible

FIRST = 1  # the version that is the head as it was given


class Models:
    """The target of an output folder.

    Args:
        settings: what to open.
    """

    def __init__(self, settings: FollowSettings):
        self.settings = settings
        self._opened: tuple[Any, Any] | None = None

    @property
    def target(self) -> Any:
        """The target; it is the one that the output folder was made with.

        Raises:
            ValueError: it is another one, or cannot be opened.
        """
        return self._open()[0]

    def tokenizer(self) -> Any:
        """The target's tokenizer."""
        return self._open()[1]

    def limits(self) -> Limits:
        """What the log's rows are checked against."""
        target = self.target
        return Limits(
            vocabulary=target.config.get_text_config().vocab_size,
            max_length=length_limit(target, None),
            stop=tuple(sorted(eos_token_ids(target, self.tokenizer()))),
        )

    def adopt_head(self, versions: Versions) -> None:
        """Make the given head the first version, where there is none yet.

        Raises:
            ValueError: the head does not fit the target, or is no head.
        """
        if versions.numbers():
            return
        target = self.target
        head = open_head(self.settings.head, target, tree="saved", **self._vocabulary())
        check_compatible(target, head.config)
        scratch = versions.folder / "head"
        dtype = target.dtype
        if Path(self.settings.head).is_dir():
            dtype = stored_dtype(Path(self.settings.head))
        save_whole(head, dtype, scratch)
        versions.adopt(scratch, FIRST)

    def _vocabulary(self) -> dict[str, Any]:
        return {"vocab_size": self.settings.vocab_size}

    def _open(self) -> tuple[Any, Any]:
        """(target, tokenizer), checked against the output folder once."""
        if self._opened is None:
            settings = self.settings
            self._opened = open_target(
                settings.target,
                settings.adapter,
                tokenizer=settings.tokenizer,
                dtype=settings.dtype,
                work="batch",
            )
            self._check(self._opened[0])
        return self._opened

    def _check(self, target: Any) -> None:
        """Refuse an output folder of another target, or of another head."""
        settings = self.settings
        head = Eagle3DraftHead.from_pretrained(settings.head, **self._vocabulary())
        check_compatible(target, head.config)
        manifest = {
            "step": "following",
            "target": settings.target,
            "target_weights": weights_fingerprint(target),
            "head": settings.head,
            "head_weights": weights_fingerprint(head),
            "versions": library_versions(),
        }
        check_manifest(settings.out, manifest, ("step", "target_weights", "head_weights"))
