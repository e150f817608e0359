"""Conversations with images: what the target's processor makes of them.

A message's content is text, or a list of parts:

    {"role": "user", "content": [{"type": "image", "image": image}, {"type": "text", "text": "?"}]}

An image is a PIL image, a file or an address, under "image", "path", "url" or "base64". A part
without any of these stands for the next image of the row's list `images`.

S tokens of one conversation.
"""

from collections.abc import Sequence
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase, ProcessorMixin
from transformers.image_utils import load_image

from eagle_hf.data.templates.messages import image_parts

IMAGE_KEYS = ("image", "path", "url", "base64")
ImageInputs = dict[str, torch.Tensor]


def tokenizer_of(processor: Any) -> PreTrainedTokenizerBase:
    """Return the tokenizer of a processor; a tokenizer is its own.

    Args:
        processor: a processor or tokenizer.

    Raises:
        ValueError: a processor without a tokenizer.
    """
    if not isinstance(processor, ProcessorMixin):
        return processor
    tokenizer = getattr(processor, "tokenizer", None)
    if tokenizer is None:
        raise ValueError(
            f"the processor {type(processor).__name__} has no tokenizer; pass the target's own: "
            "eagle_hf.target.load_processor(name)"
        )
    return tokenizer


class ConversationEncoder:
    """Encodes the pieces of one conversation, prompts with the images in them.

    Args:
        processor: the target's processor; a tokenizer where there are no images.
        images: what the parts without an image of their own stand for, in order.
    """

    def __init__(self, processor: Any, images: Sequence[Any] = ()):
        self.processor = processor
        self.tokenizer = tokenizer_of(processor)
        self._waiting = list(images)
        self._read: list[Any] = []  # the images so far
        self._pieces: list[ImageInputs] = []  # of every piece with images
        self._types: list[tuple[int, ImageInputs]] = []  # where each such piece begins

    def encode(self, text: str) -> list[int]:
        """The tokens of a piece without images."""
        return self.tokenizer.encode(text, add_special_tokens=False)

    def encode_prompt(self, text: str, messages: Sequence[Any], start: int) -> list[int]:
        """The tokens of a prompt.

        Args:
            text: rendered.
            messages: those that it holds.
            start: how many tokens come before it.

        Raises:
            ValueError: its images cannot be read.
        """
        images = [self._open(part) for message in messages for part in image_parts(message)]
        if not images:
            return self.encode(text)
        prepared = self._prepare(text, images)
        ids = prepared.pop("input_ids")  # [1, S]
        self._types.append((start, _by_token(prepared, ids.shape)))
        self._pieces.append(prepared)
        self._read += images
        return ids[0].tolist()

    def image_inputs(self, text: str, length: int) -> ImageInputs | None:
        """What the target reads beside the tokens.

        Args:
            text: the whole conversation, rendered.
            length: S.

        Returns:
            As the processor returns it for a batch of one row; None without images.

        Raises:
            ValueError: more images are given than the messages hold.
        """
        if self._waiting:
            raise ValueError(
                f"{len(self._waiting)} of the row's images have no part in its messages; give "
                'each an {"type": "image"}'
            )
        if not self._pieces:
            return None
        inputs = self._pieces[0]
        if len(self._pieces) > 1:
            inputs = self._prepare(text, self._read)
            ids = inputs.pop("input_ids")
            _by_token(inputs, ids.shape)
        for start, types in self._types:
            for name, part in types.items():
                whole = inputs.setdefault(name, part.new_zeros(1, length))
                whole[:, start : start + part.shape[1]] = part
        return inputs

    def _open(self, part: dict[str, Any]) -> Any:
        """The image of a part."""
        given = [part[key] for key in IMAGE_KEYS if part.get(key) is not None]
        if not given and not self._waiting:
            raise ValueError(
                f"an image part holds {sorted(part)} and the row has no image for it; give it "
                f"{', '.join(IMAGE_KEYS)}, or put the image into the row's `images`"
            )
        source = given[0] if given else self._waiting.pop(0)
        try:
            return load_image(source)
        except Exception as error:  # of many kinds: files, addresses, formats
            raise ValueError(f"the image {source!r:.80} cannot be opened ({error})") from error

    def _prepare(self, text: str, images: list[Any]) -> ImageInputs:
        """What the processor makes of text and images, without the attention mask."""
        if not isinstance(self.processor, ProcessorMixin):
            raise ValueError(
                "the messages hold images, which a tokenizer cannot read; pass the target's "
                "processor: eagle_hf.target.load_processor(name)"
            )
        processor: Any = self.processor
        prepared = processor(
            text=[text], images=[images], add_special_tokens=False, return_tensors="pt"
        )
        return {name: value for name, value in prepared.items() if name != "attention_mask"}


def _by_token(inputs: ImageInputs, shape: torch.Size) -> ImageInputs:
    """Take the tensors out of `inputs` that hold a value for each token [1, S]."""
    names = [name for name, value in inputs.items() if value.shape == shape]
    return {name: inputs.pop(name) for name in names}


def prompt_part(inputs: ImageInputs, length: int, whole: int) -> ImageInputs:
    """The inputs of a conversation's first tokens, which hold all of its images.

    Args:
        inputs: of the conversation.
        length: how many tokens.
        whole: S.
    """
    part = {}
    for name, value in inputs.items():
        has_value_for_each_token = value.shape == (1, whole)
        part[name] = value[:, :length] if has_value_for_each_token else value
    return part
