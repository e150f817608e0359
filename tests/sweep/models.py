"""Every class that transformers can build from a configuration, as a tiny seeded model."""

from dataclasses import dataclass
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
)

from sweep.families import FAMILIES, IMAGE_TOKEN, UNBUILT, Family
from sweep.shrinking import FIRST_SPECIAL, tiny_config

MOST_WEIGHTS = 12_000_000  # a model with more was not shrunk
SPREAD = 0.25  # of the weights: the next token is uncertain, but not a coin's toss


@dataclass(frozen=True)
class Entry:
    """One class of transformers, with a configuration that builds it.

    Attributes:
        model_class: The name of the class.
        config_class: The configuration that it is found by.
        auto: The class that opens it.
    """

    model_class: str
    config_class: type[PreTrainedConfig]
    auto: Any

    @property
    def name(self) -> str:
        """The class, and whose configuration it is built from."""
        return f"{self.model_class} ({self.config_class.__name__})"

    @property
    def family(self) -> Family:
        """What the configuration needs beyond the shrinking."""
        return FAMILIES.get(self.config_class.__name__, Family())

    @property
    def reason_unbuilt(self) -> str | None:
        """Why it is not built; None where it is."""
        return UNBUILT.get(self.model_class) or UNBUILT.get(self.config_class.__name__)


def all_entries() -> list[Entry]:
    """All causal and image-text classes of the installed transformers, by name."""
    mappings = {
        AutoModelForCausalLM: MODEL_FOR_CAUSAL_LM_MAPPING,
        AutoModelForImageTextToText: MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
    }
    entries = {}
    for auto, mapping in mappings.items():
        for config_class, model_class in mapping.items():
            entry = Entry(model_class.__name__, config_class, auto)
            entries.setdefault(entry.name, entry)
    return sorted(entries.values(), key=lambda entry: entry.name.lower())


def build(entry: Entry) -> PreTrainedModel:
    """The tiny model of a class, in float64 where its own code allows that."""
    config = tiny_config(entry.config_class, entry.family.config)
    with torch.device("meta"):
        count = entry.auto.from_config(config).num_parameters()
    assert count < MOST_WEIGHTS, f"{entry.name} has {count} weights: shrink its configuration"
    torch.manual_seed(0)
    model = entry.auto.from_config(config, experts_implementation="eager")
    model = model.to(entry.family.dtype).eval()
    randomise(model)
    return model


@torch.no_grad()
def randomise(model: PreTrainedModel) -> None:
    """Draw every matrix anew: some families begin with zeros, in which errors do not show."""
    for weight in model.parameters():
        if weight.dim() > 1:
            weight.normal_(std=SPREAD)


def prompts(entry: Entry, model: PreTrainedModel, lengths: list[int]) -> dict[str, torch.Tensor]:
    """Random prompts as a left-padded batch, with pixel values where generate asks for them."""
    generator = torch.Generator().manual_seed(0)
    shape = (len(lengths), max(lengths))
    ids = torch.randint(3, FIRST_SPECIAL, shape, generator=generator)
    mask = torch.zeros_like(ids)
    for row, length in enumerate(lengths):
        mask[row, shape[1] - length :] = 1
    family = entry.family
    ids[:, -1 - family.image_tokens : -1] = IMAGE_TOKEN
    inputs = {"input_ids": ids * mask, "attention_mask": mask}
    if family.images is not None:
        pixels = torch.randn(len(lengths), *family.images, generator=generator)
        inputs["pixel_values"] = pixels.to(model.dtype)
    for name, size in family.more_inputs.items():
        inputs[name] = torch.ones(len(lengths), *size, dtype=torch.long)
    return inputs
