"""An exporter that breaks what it exports: python breaking_exporter.py HOW HEAD OUT."""

import json
import shutil
import sys
from pathlib import Path

import numpy
from safetensors.numpy import load_file, save_file


def edit_config(folder: Path, **changes: object) -> None:
    path = folder / "config.json"
    config = json.loads(path.read_text())
    for name, value in changes.items():
        if value is None:
            config.pop(name, None)
        else:
            config[name] = value
    path.write_text(json.dumps(config))


def shift_layers(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    own = config["eagle_hf"]
    shifted = [index + 1 for index in own["aux_layer_ids"]]
    edit_config(
        folder,
        eagle_hf={**own, "aux_layer_ids": shifted},
        eagle_aux_hidden_state_layer_ids=shifted,
    )


def edit_weight(folder: Path, name: str, change) -> None:
    path = folder / "model.safetensors"
    weights = load_file(path)
    weights[name] = numpy.ascontiguousarray(change(weights[name]))
    save_file(weights, path, metadata={"format": "pt"})


def shift_map(folder: Path) -> None:
    # Without its t2d, which would give the map away when the head is opened.
    path = folder / "model.safetensors"
    weights = load_file(path)
    weights.pop("t2d")
    weights["d2t"] = numpy.maximum(weights["d2t"] - 1, 0)
    save_file(weights, path, metadata={"format": "pt"})


def main() -> None:
    how, head, out = sys.argv[1:]
    if how == "nothing":
        return
    if how == "fail":
        raise SystemExit("no space left")
    folder = Path(shutil.copytree(head, out))
    if how == "layers":
        shift_layers(folder)
    elif how == "d2t":
        shift_map(folder)
    elif how == "norm":
        edit_config(folder, norm_before_residual=None)
    elif how == "lm_head":
        edit_weight(folder, "lm_head.weight", lambda rows: rows[::-1])


if __name__ == "__main__":
    main()
