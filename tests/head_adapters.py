"""Adapters of a tiny head, whose drafts differ from the head's own."""

from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from tiny import tiny_head, tiny_target

from eagle_hf import Eagle3DraftHead

ALL_LAYERS = ["fc", "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
ALL_LAYERS.append("lm_head")


def save_adapter(
    folder: Path, layers: list[str], seed: int = 0, head: Any = None, **settings: Any
) -> Path:
    """The folder of a random LoRA over the tiny head.

    Args:
        folder: Where it is saved.
        layers: The layers that it changes.
        seed: Of its weights.
        head: The head instead of the tiny one; it is changed.
        settings: Of the LoraConfig.
    """
    head = head or tiny_head(tiny_target())
    torch.manual_seed(seed)
    settings = {"r": 4, "lora_alpha": 8, "init_lora_weights": False} | settings
    model = get_peft_model(head, LoraConfig(target_modules=layers, **settings))
    model.save_pretrained(folder)
    return folder


def load_adapters(head: Eagle3DraftHead, folder: Path) -> Eagle3DraftHead:
    """The head with the adapters "code" and "chat", saved below a folder."""
    head.load_adapter(save_adapter(folder / "code", ALL_LAYERS, seed=1), adapter_name="code")
    chat = save_adapter(folder / "chat", ["fc", "q_proj", "down_proj"], seed=2, r=2)
    head.load_adapter(chat, adapter_name="chat")
    return head
