"""From anything that `Eagle3Trainer` takes as a dataset to tokenised examples."""

from collections.abc import Iterable
from typing import Any, cast

from transformers import PreTrainedModel
from transformers.utils import logging

from eagle_hf.data.examples.masking import eos_token_ids, tokenize_conversations
from eagle_hf.data.examples.preparing import length_limit
from eagle_hf.data.examples.streams import StreamedExamples
from eagle_hf.data.examples.tokenised_rows import usable_examples
from eagle_hf.data.features.dataset import Features
from eagle_hf.data.rows import Example, SkippedRow
from eagle_hf.data.templates.arguments import TemplateArguments
from eagle_hf.data.templates.template import chat_template, template_sha256
from eagle_hf.target.structure import UNLIMITED
from eagle_hf.training.arguments import Eagle3TrainingArguments
from eagle_hf.training.batches import compact, example_lengths
from eagle_hf.training.sharding import check_read_at_once

logger = logging.get_logger(__name__)


class ExampleMaker:
    """Makes tokenised examples of datasets, each example of a list with an index of its own.

    Args:
        target: the target that the head will draft for.
        layer_ids: the layers whose inputs are the aux hidden states.
        tokenizer: the target's, or its processor; None where no dataset holds conversations.
        args: for `max_length`, `train_on` and `chat_template_kwargs`.

    Attributes:
        template_arguments: of all datasets, so that they have one date.
        skipped: the rows that could not be used, and why.
    """

    def __init__(
        self,
        target: PreTrainedModel,
        layer_ids: list[int],
        tokenizer: Any,
        args: Eagle3TrainingArguments,
    ):
        self.target = target
        self.layer_ids = layer_ids
        self.tokenizer = tokenizer
        self.args = args
        self.template_arguments = TemplateArguments.read(args.chat_template_kwargs)
        self.skipped: list[SkippedRow] = []
        self._next_index = 0

    def prepare(self, dataset: Any, endless: bool = False) -> Any:
        """Make examples of anything that `train_dataset` may be.

        Args:
            dataset: see `Eagle3Trainer`; a dict of datasets gives a dict; None gives None.
            endless: a stream begins again after its last row.

        Returns:
            A list of examples, `Features`, or `StreamedExamples`.

        Raises:
            ValueError: no row can be learnt from, or a setting does not fit the dataset.
        """
        if dataset is None:
            return None
        if isinstance(dataset, dict):
            return {name: self.prepare(part) for name, part in dataset.items()}
        if isinstance(dataset, Features):
            self._check_features(dataset)
            return dataset
        if isinstance(dataset, StreamedExamples):
            return dataset
        if not hasattr(dataset, "__len__"):
            self._check_stream(dataset)
            self._check_length(self._max_length() or UNLIMITED)
            return StreamedExamples(dataset, self._tokenize, self.skipped, endless)
        examples, skipped = self._tokenize(list(dataset), self.args.dataset_num_proc)
        self.skipped += skipped
        if skipped:
            logger.warning(f"{len(skipped)} conversations skipped, the first: {skipped[0]}")
        self._check_length(max(example_lengths(examples), default=0))
        for example in examples:
            example["index"] = self._next_index
            self._next_index += 1
        return examples

    def _tokenize(
        self, rows: list[dict], num_proc: int | None = None
    ) -> tuple[list[Example], list[SkippedRow]]:
        """(examples, skipped) of conversations or of tokenised rows."""
        if rows and "input_ids" not in rows[0]:
            usable, skipped = tokenize_conversations(
                rows, **self._conversation_settings(), num_proc=num_proc
            )
        else:
            usable, skipped = usable_examples(rows, self._max_length())
        examples = [cast(Example, compact(example)) for example in usable]
        self._check_images(examples)
        return examples, skipped

    def _conversation_settings(self) -> dict[str, Any]:
        """What rendering conversations needs besides the rows."""
        if self.tokenizer is None:
            raise ValueError(
                "conversations were given without processing_class; pass the target's tokenizer"
            )
        chat_template(self.tokenizer)  # refuses a tokenizer without one
        return {
            "tokenizer": self.tokenizer,
            "eos_token_ids": eos_token_ids(self.target, self.tokenizer),
            "max_length": self._max_length(),
            "train_on": self.args.train_on,
            "template_arguments": self.template_arguments,
        }

    def _check_images(self, examples: list[Example]) -> None:
        """Refuse images for a sharded target: its processes must run it equally often.

        Conversations with images are read one by one, others together.
        """
        with_images = [example["id"] for example in examples if "image_inputs" in example]
        if with_images and self.args.shard_target:
            raise ValueError(
                f"shard_target is {self.args.shard_target!r} and conversation {with_images[0]!r} "
                "has images, which a sharded target cannot read; train on text, or on one device "
                "without shard_target"
            )

    def _check_length(self, longest: int) -> None:
        """Refuse conversations that are too long for a sharded target."""
        check_read_at_once(self.target, self.args.shard_target, longest)

    def _max_length(self) -> int | None:
        """The arguments' limit in tokens, or else the target's."""
        return length_limit(self.target, self.args.max_length)

    def _check_features(self, features: Features) -> None:
        """Refuse features of another target, of other layers, or beyond max_length."""
        template = template_sha256(self.tokenizer) if self.tokenizer else None
        features.check(target=self.target, layer_ids=self.layer_ids, template_sha256=template)
        limit = self.args.max_length
        longest = max(features.lengths)
        if limit is not None and longest > limit:
            raise ValueError(
                f"max_length is {limit} but the features hold a conversation of {longest} tokens; "
                "raise it, or capture with this max_length"
            )

    def _check_stream(self, rows: Iterable[dict]) -> None:
        """Refuse settings that fit no row of a stream now, at its first row."""
        first = next(iter(rows), None)
        if first is not None and "input_ids" not in first:
            self._conversation_settings()


def let_processes_read_streams(args: Eagle3TrainingArguments, *datasets: Any) -> None:
    """Let each process read its own share of a stream, unless the arguments say otherwise.

    By default accelerate reads a stream in one process and sends slices of its batches to the
    others. That needs rows of one length.

    Args:
        args: `accelerator_config` is changed where a dataset is a stream.
        datasets: examples, or dicts of examples by name.
    """
    parts = []
    for dataset in datasets:
        parts += dataset.values() if isinstance(dataset, dict) else [dataset]
    has_stream = any(isinstance(part, StreamedExamples) for part in parts)
    config: Any = args.accelerator_config
    if has_stream and config.dispatch_batches is None:
        config.dispatch_batches = False
