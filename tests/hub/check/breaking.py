"""Break a sound head: change its config.json, and its tensors."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from eagle_hf.hub import engines
from eagle_hf.hub.check.findings import engine_names

Weights = dict[str, torch.Tensor]

EAGLE_HF, VLLM, SGLANG, LLAMA_CPP, OPENVINO = engine_names(engines.ENGINES)
SERVERS = engine_names(engines.SERVERS)

IDS = "eagle_aux_hidden_state_layer_ids"
NESTED = f"eagle_config.{IDS}"
ROPE = {"rope_type": "default", "rope_theta": 500000.0}


@dataclass(frozen=True)
class Broken:
    """Changes to a sound head, and the finding that they cause: level, key, some of the engines."""

    level: str
    key: str
    engines: list[str] | tuple[str, ...]
    config: dict[str, Any] = field(default_factory=dict)
    drop: tuple[str, ...] = ()
    weights: Callable[[Weights], Weights] | None = None

    def apply(self, folder: Path) -> None:
        """Break the head in a folder."""
        edit_head(folder, self.config, self.drop, self.weights)


def error(key, engines, **changes):
    return Broken("error", key, engines, **changes)


def warning(key, engines, **changes):
    return Broken("warning", key, engines, **changes)


def note(key, engines, **changes):
    return Broken("note", key, engines, **changes)


def edit_head(folder, config=(), drop=(), weights=None):
    """Set and drop keys of config.json, and replace the weights by `weights(weights)`."""
    file = folder / "config.json"
    written = json.loads(file.read_text()) | dict(config)
    for key in drop:
        written.pop(key, None)
    file.write_text(json.dumps(written))
    if weights is None:
        return
    file = folder / "model.safetensors"
    tensors = weights(load_file(file))
    for name in tensors:
        tensors[name] = tensors[name].contiguous()
    save_file(tensors, file, metadata={"format": "pt"})


# What is done to the weights.


def put(name, make):
    """Replace a tensor, or add one, by make(the tensor or None)."""

    def change(weights):
        return weights | {name: make(weights.get(name))}

    return change


def without(*names):
    """Leave tensors out."""

    def change(weights):
        return {name: tensor for name, tensor in weights.items() if name not in names}

    return change


def renamed(prefix):
    """Give the layer's tensors another prefix."""

    def change(weights):
        return {name.replace("midlayer.", prefix): weights[name] for name in weights}

    return change


def whole(weights):
    """The whole vocabulary, and a map nevertheless."""
    lm_head = torch.rand(31, 32)
    d2t = torch.zeros(31, dtype=torch.long)
    t2d = torch.ones(31, dtype=torch.bool)
    return weights | {"lm_head.weight": lm_head, "d2t": d2t, "t2d": t2d}


def all_ones(weights):
    """Every norm as it is before training."""
    changed = dict(weights)
    for name in weights:
        if "norm" in name:
            changed[name] = torch.ones_like(weights[name])
    return changed


def random_embeddings(_):
    return torch.randn(31, 32)


def zero_embeddings(_):
    return torch.zeros(31, 32)


def vector(_):
    return torch.rand(32)  # of a norm or a bias


def unknown_tensor(_):
    return torch.ones(2)


def half(fc):
    return fc[:, :64]  # of two states instead of three


def as_integers(fc):
    return fc.to(torch.int8)


def not_a_number(norm):
    return norm * float("nan")


def without_last(d2t):
    return d2t[:-1]


def as_ids(d2t):
    return d2t + torch.arange(24)


def beyond(d2t):
    return d2t + 9


def one_token_twice(d2t):
    return torch.cat([d2t[:1], d2t[:1] - 1, d2t[2:]])


# What is done to the config.


def nested(ids, **config):
    """The layer ids in SGLang's place."""
    return {"eagle_config": {"use_aux_hidden_state": True, IDS: ids}} | config


def trained_on(ids):
    """The layer ids under our own key."""
    return {"eagle_hf": {"aux_layer_ids": ids}}


# What a test asks of reports.


def found(report, level, key):
    """The engines that a finding of this level and key concerns."""
    engines = set()
    for finding in report.findings:
        if (finding.level, finding.key) == (level, key):
            engines.update(finding.engines)
    return engines


def fixable(report):
    """The errors that are no engine's own limit."""
    return [f for f in report.findings if f.level == "error" and not f.limit]


def other_target(target, folder, **config):
    """A target of which there is only a config.json, that of `target` with other keys."""
    folder.mkdir()
    written = json.loads((target / "config.json").read_text()) | config
    (folder / "config.json").write_text(json.dumps(written))
    return folder
