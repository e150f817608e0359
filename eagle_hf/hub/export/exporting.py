"""Write the folder of an export, and find the target that a head names."""

import json
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard
from safetensors.torch import save_file
from transformers import PretrainedConfig
from transformers.utils.hub import cached_file

from eagle_hf.head.modeling import Eagle3DraftHead
from eagle_hf.head.opening import read_config
from eagle_hf.hub.export.layouts import LAYOUTS, layout_config
from eagle_hf.hub.export.support import check_head, check_target

WRITTEN_FILES = ("config.json", "model.safetensors")


def export_head(
    head: Eagle3DraftHead,
    out: str | Path,
    to: str,
    target_id: str | None = None,
    target: PretrainedConfig | None = None,
) -> None:
    """Write a head to a folder as an engine reads it; nothing there is overwritten.

    Args:
        head: The head.
        out: The folder; it may hold other files.
        to: One of `LAYOUTS`.
        target_id: Hub id or folder of the target, which "speculators" names as its verifier.
        target: The target's config. The head is compared with it, and where the head reads other
            than the default layers, SGLang's ids depend on it.

    Raises:
        ValueError: The engine would compute the head otherwise than it was trained, the target is
            another one, or the folder holds a head already.
    """
    if to not in LAYOUTS:
        raise ValueError(f"there is no layout {to!r}; choose one of {', '.join(LAYOUTS)}")
    # 1) what would be drafted wrong is refused before anything is written
    check_head(head)
    check_target(head.config, target)
    config = layout_config(head.config, to, target_id, target)
    config["dtype"] = str(head.dtype).removeprefix("torch.")
    taken = [name for name in WRITTEN_FILES if Path(out, name).exists()]
    if taken:
        raise ValueError(
            f"{out} already holds {' and '.join(taken)}; "
            "choose another folder, nothing is overwritten"
        )
    # 2) the weights, and 3) the config as this engine reads it, over the saved one
    if to == "speculators":
        _save_speculators_weights(head, Path(out))
    else:
        head.save_pretrained(out)
    written = json.dumps(config, indent=2, sort_keys=True) + "\n"
    Path(out, "config.json").write_text(written, encoding="utf-8")


def _save_speculators_weights(head: Eagle3DraftHead, folder: Path) -> None:
    """Save the tensors under the names of the speculators format."""
    weights = {}
    for name, tensor in head.state_dict().items():
        weights[name.replace("midlayer.", "layers.0.")] = tensor.contiguous()
    folder.mkdir(parents=True, exist_ok=True)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def named_target(head: str | Path) -> str:
    """The target that a head names.

    Args:
        head: Folder or hub id of the head.

    Returns:
        Its card's base_model, or else what the speculators format verifies with.

    Raises:
        ValueError: The head names none.
    """
    verifier = _read_verifier(read_config(head, {}))
    card = cached_file(head, "README.md", _raise_exceptions_for_missing_entries=False)
    base_model = ModelCard.load(card).data.base_model if card else None
    # The card first: it stands in every layout, and its owner writes it.
    name = base_model or verifier
    if not isinstance(name, str):
        raise ValueError(f"{head} names no target; name it: --target")
    return name


def _read_verifier(config: dict[str, Any]) -> Any:
    """What stands in the place of the verifier's name in config.json; None without one."""
    value: Any = config
    for key in ("speculators_config", "verifier", "name_or_path"):
        value = value.get(key) if isinstance(value, dict) else None
    return value
