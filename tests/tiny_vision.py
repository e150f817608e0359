"""Tiny seeded image-text targets, and prompts that hold images of a few patches."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from PIL import Image
from tiny import word_tokenizer
from transformers import (
    AutoModelForImageTextToText,
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    Gemma3Config,
    Gemma3ImageProcessorPil,
    Gemma3Processor,
    Gemma3TextConfig,
    Idefics3Config,
    InternVLConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaProcessor,
    Mistral3Config,
    MistralConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    ProcessorMixin,
    Qwen2_5_VLConfig,
    Qwen2_5_VLProcessor,
    Qwen2Config,
    Qwen2VLImageProcessorPil,
    Qwen3VLConfig,
    SmolVLMConfig,
)

VOCABULARY = 31
IMAGE_TOKEN = 30
PATCH = 4  # pixels
TEXT = dict(
    vocab_size=VOCABULARY,
    hidden_size=32,
    intermediate_size=64,
    num_hidden_layers=7,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=8,
    max_position_embeddings=512,
    bos_token_id=1,
    eos_token_id=2,
    pad_token_id=0,
    initializer_range=0.25,
)
VISION = dict(
    hidden_size=16,
    intermediate_size=32,
    num_hidden_layers=2,
    num_attention_heads=2,
    initializer_range=0.25,
)
# Messages as words, as in tiny.py; contents may be lists of parts, {image} stands for an image.
CHAT_TEMPLATE = (
    "{% for m in messages %}"
    "{{ 'w3 ' if m.role == 'user' else 'w4 ' }}"
    "{% if m.content is string %}{{ m.content }}{% else %}{% for p in m.content %}"
    "{{ ' {image} ' if p.type == 'image' else p.text }}"
    "{% endfor %}{% endif %}"
    " w2 {% endfor %}"
    "{% if add_generation_prompt %}w4 {% endif %}"
)
MROPE = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [1, 1, 2]}


@dataclass(frozen=True)
class Kind:
    """How a kind of image-text model is built and prompted.

    Attributes:
        config: Makes its tiny config.
        tokens: How many placeholders an image has.
        pixels: Makes what the model reads of images: pixel values, and what goes with them. It is
            given the number of images of every row.
        types: The name of the argument that tells images from text; None where there is none.
    """

    config: Callable[[], PreTrainedConfig]
    tokens: int
    pixels: Callable[[list[int]], dict[str, torch.Tensor]]
    types: str | None = None


def squares(size: int) -> Callable[[list[int]], dict[str, torch.Tensor]]:
    """Images of one size, whichever row they are in."""

    def pixels(counts: list[int]) -> dict[str, torch.Tensor]:
        return {"pixel_values": torch.randn(sum(counts), 3, size, size)}

    return pixels


def sized_squares(counts: list[int]) -> dict[str, torch.Tensor]:
    """Images [n, 3, 16, 16] with their sizes, as Pixtral reads them."""
    images = sum(counts)
    sizes = torch.tensor([[16, 16]] * images)
    return {"pixel_values": torch.randn(images, 3, 16, 16), "image_sizes": sizes}


def squares_by_row(counts: list[int]) -> dict[str, torch.Tensor]:
    """Images [B, most, 3, 16, 16]; what a row lacks is zero, as Idefics reads them."""
    pixels = torch.zeros(len(counts), max(counts), 3, 16, 16)
    for row, count in enumerate(counts):
        pixels[row, :count] = torch.randn(count, 3, 16, 16)
    return {"pixel_values": pixels}


def patches(width: int) -> Callable[[list[int]], dict[str, torch.Tensor]]:
    """Images as one list of flattened patches, 4 by 6 patches each, as Qwen-VL reads them."""

    def pixels(counts: list[int]) -> dict[str, torch.Tensor]:
        images = sum(counts)
        grids = torch.tensor([[1, 4, 6]] * images)
        return {"pixel_values": torch.randn(24 * images, width), "image_grid_thw": grids}

    return pixels


def llava() -> PreTrainedConfig:
    """CLIP and Llama; one token a patch."""
    return LlavaConfig(
        vision_config=CLIPVisionConfig(**VISION, image_size=16, patch_size=PATCH),
        text_config=LlamaConfig(**TEXT),
        image_token_index=IMAGE_TOKEN,
        vision_feature_layer=-1,
    )


def qwen2_5_vl() -> PreTrainedConfig:
    """Three axes of positions, and sliding windows; a token of four patches."""
    vision = dict(
        depth=2,
        hidden_size=16,
        intermediate_size=32,
        num_heads=2,
        out_hidden_size=32,
        patch_size=PATCH,
        window_size=16,
        fullatt_block_indexes=[1],
        initializer_range=0.25,
    )
    text = {**TEXT, "rope_parameters": MROPE}
    text.update(use_sliding_window=True, sliding_window=12, max_window_layers=4)
    del text["head_dim"]
    return Qwen2_5_VLConfig(
        vision_config=vision,
        text_config=text,
        image_token_id=IMAGE_TOKEN,
        video_token_id=29,
        vision_start_token_id=28,
        vision_end_token_id=27,
    )


def qwen3_vl() -> PreTrainedConfig:
    """Three interleaved axes, and image features added behind the first layers."""
    vision = dict(
        depth=3,
        hidden_size=16,
        intermediate_size=32,
        num_heads=2,
        out_hidden_size=32,
        patch_size=PATCH,
        num_position_embeddings=16,
        deepstack_visual_indexes=[0, 1],
        initializer_range=0.25,
    )
    return Qwen3VLConfig(
        vision_config=vision,
        text_config={**TEXT, "rope_parameters": MROPE},
        image_token_id=IMAGE_TOKEN,
        video_token_id=29,
        vision_start_token_id=28,
        vision_end_token_id=27,
    )


def gemma3() -> PreTrainedConfig:
    """Sliding windows shorter than the text; an image's tokens see each other both ways."""
    kinds = ["sliding_attention", "full_attention"] * 3 + ["full_attention"]
    return Gemma3Config(
        text_config=Gemma3TextConfig(
            **TEXT, sliding_window=12, layer_types=kinds, tie_word_embeddings=False
        ),
        vision_config=dict(VISION, image_size=16, patch_size=PATCH),
        mm_tokens_per_image=4,
        image_token_index=IMAGE_TOKEN,
        initializer_range=0.25,
        tie_word_embeddings=False,
    )


def mistral3() -> PreTrainedConfig:
    """Pixtral and Mistral with a sliding window; four patches a token."""
    vision = dict(VISION, model_type="pixtral", image_size=16, patch_size=PATCH, head_dim=8)
    return Mistral3Config(
        vision_config=vision,
        text_config=MistralConfig(**TEXT, sliding_window=16),
        image_token_index=IMAGE_TOKEN,
        spatial_merge_size=2,
        vision_feature_layer=-1,
    )


def idefics3() -> PreTrainedConfig:
    """SigLIP and Llama; four patches a token."""
    return Idefics3Config(
        vision_config=dict(VISION, image_size=16, patch_size=PATCH),
        text_config=LlamaConfig(**TEXT),
        image_token_id=IMAGE_TOKEN,
        scale_factor=2,
        pad_token_id=0,
    )


def smolvlm() -> PreTrainedConfig:
    """As Idefics 3."""
    return SmolVLMConfig(
        vision_config=dict(VISION, image_size=16, patch_size=PATCH),
        text_config=LlamaConfig(**TEXT),
        image_token_id=IMAGE_TOKEN,
        scale_factor=2,
        pad_token_id=0,
    )


def internvl() -> PreTrainedConfig:
    """InternViT and Qwen 2; four patches a token."""
    text = dict(TEXT)
    del text["head_dim"]
    return InternVLConfig(
        vision_config=dict(VISION, image_size=(16, 16), patch_size=(PATCH, PATCH)),
        text_config=Qwen2Config(**text),
        image_token_id=IMAGE_TOKEN,
        downsample_ratio=0.5,
    )


KINDS = {
    "llava": Kind(llava, 16, squares(16)),
    "qwen2_5_vl": Kind(qwen2_5_vl, 6, patches(3 * 2 * PATCH**2), "mm_token_type_ids"),
    "qwen3_vl": Kind(qwen3_vl, 6, patches(3 * 2 * PATCH**2), "mm_token_type_ids"),
    "gemma3": Kind(gemma3, 4, squares(16), "token_type_ids"),
    "mistral3": Kind(mistral3, 4, sized_squares),
    "idefics3": Kind(idefics3, 4, squares_by_row),
    "smolvlm": Kind(smolvlm, 4, squares_by_row),
    "internvl": Kind(internvl, 4, squares(16)),
}


def vision_target(name: str, dtype: torch.dtype = torch.float64) -> PreTrainedModel:
    """A random image-text model of this kind."""
    torch.manual_seed(0)
    model = AutoModelForImageTextToText.from_config(KINDS[name].config())
    return model.to(dtype).eval().requires_grad_(False)


def image_prompts(
    name: str, rows: Sequence[Sequence[int]], dtype: torch.dtype = torch.float64, seed: int = 0
) -> dict[str, torch.Tensor]:
    """Left-padded prompts of random text with images between.

    Args:
        name: The kind of the target.
        rows: For every row the lengths of its pieces of text; an image stands between two.
        dtype: Of the pixels.
        seed: Of text and pixels.

    Returns:
        What a processor would: input_ids and attention_mask [B, S], the pixels, and the token
        types where the kind reads them.
    """
    torch.manual_seed(seed)
    kind = KINDS[name]
    prompts = [_prompt(kind, pieces) for pieces in rows]
    longest = max(map(len, prompts))
    ids = torch.zeros(len(prompts), longest, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, longest - len(prompt) :] = torch.tensor(prompt)
        mask[row, longest - len(prompt) :] = 1
    inputs = {"input_ids": ids, "attention_mask": mask}
    counts = [len(pieces) - 1 for pieces in rows]
    if any(counts):
        for key, value in kind.pixels(counts).items():
            inputs[key] = value.to(dtype) if value.is_floating_point() else value
    if kind.types is not None:
        inputs[kind.types] = (ids == IMAGE_TOKEN).long()
    return inputs


def _prompt(kind: Kind, pieces: Sequence[int]) -> list[int]:
    """The tokens of a row."""
    prompt: list[int] = []
    for number, length in enumerate(pieces):
        if number:
            prompt += [IMAGE_TOKEN] * kind.tokens
        prompt += torch.randint(3, 27, (length,)).tolist()
    return prompt


class ImageProcessor(Qwen2_5_VLProcessor):
    """Qwen's processor without its videos, which need torchvision."""

    def __init__(self, image_processor=None, tokenizer=None):
        super().__init__(image_processor, tokenizer, None)

    @classmethod
    def get_attributes(cls) -> list[str]:
        return ["image_processor", "tokenizer"]


def vision_processor(name: str) -> ProcessorMixin:
    """The processor of a tiny target; of "llava", "gemma3" or "qwen2_5_vl"."""
    tokenizer = image_tokenizer()
    if name == "llava":
        crop = {"height": 16, "width": 16}
        images = CLIPImageProcessorPil(size={"shortest_edge": 16}, crop_size=crop)
        return LlavaProcessor(
            images,
            tokenizer,
            patch_size=PATCH,
            vision_feature_select_strategy="default",
            image_token="w30",
            num_additional_image_tokens=1,
            chat_template=CHAT_TEMPLATE.replace("{image}", "w30"),
        )
    if name == "gemma3":
        images = Gemma3ImageProcessorPil(size={"height": 16, "width": 16})
        template = CHAT_TEMPLATE.replace("{image}", "w28")
        return Gemma3Processor(images, tokenizer, template, image_seq_length=4)
    images = Qwen2VLImageProcessorPil(patch_size=PATCH, min_pixels=64, max_pixels=1024)
    processor = ImageProcessor(images, tokenizer)
    # the model tells two images apart by the tokens around them
    processor.chat_template = CHAT_TEMPLATE.replace("{image}", "w28 w30 w27")
    return processor


def image_tokenizer() -> PreTrainedTokenizerFast:
    """The tokenizer of words, with the tokens that stand around and for images."""
    tokenizer = word_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["w27", "w28", "w29", "w30"]})
    tokenizer.chat_template = None
    tokenizer.image_token = "w30"
    tokenizer.image_token_id = IMAGE_TOKEN
    tokenizer.video_token = "w29"
    tokenizer.boi_token = "w28"
    tokenizer.boi_token_id = 28
    tokenizer.eoi_token = "w27"
    return tokenizer


def picture(seed: int) -> Image.Image:
    """A random image of 16 by 16 pixels."""
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(256, (16, 16, 3), generator=generator, dtype=torch.uint8)
    return Image.fromarray(pixels.numpy())
