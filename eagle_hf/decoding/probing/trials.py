"""Trials of a model, their outcomes and what is said of them.

Module state: the outcomes of this process, by class and config.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from transformers import PreTrainedModel

from eagle_hf.compat import attention_implementation, quiet_libraries
from eagle_hf.decoding.probing.doors import drafted_logits, prompt_logits, verified_logits
from eagle_hf.decoding.probing.sinks import turned_and_read_keys
from eagle_hf.decoding.probing.text import Text, plain_logits
from eagle_hf.target import capture_aux, decoder_layers, execution_device, unwrap
from eagle_hf.target.miniature import miniature

Trial = Callable[[PreTrainedModel], float]

# How far a trial's tensors may lie from the right ones, in standard deviations of these. Over all
# classes of transformers 5.24, right ones stay below 3e-6 and 3e-5, and wrong ones above 1.
TOLERANCE = {torch.float64: 1e-4, torch.float32: 1e-3}
ROUGH = 0.5  # in dtypes of fewer digits
READ_LAYERS = 3  # by a head
CHUNK = 4  # tokens; the shorter prompt's padding fills the first one

# (trial, class, attention, config, whether it has weights) -> what is wrong, "" where nothing is
_outcomes: dict[tuple[Trial, type, str, str, bool], str] = {}


class Unfit(Exception):
    """Nothing can be learnt from this model: plain `generate` itself fails on it."""


def check_reading_trees(model: Any) -> None:
    """Refuse a target whose logits at a tree's nodes are not those of plain generate.

    Raises:
        ValueError: says how far apart they are, or what the model raised.
    """
    _refuse_where_wrong(
        verifying,
        model,
        "does not read draft trees as it reads text",
        "generate without assistant_model",
    )


def check_drafting_trees(model: Any) -> None:
    """Refuse a draft model whose logits at a tree's nodes are not those of plain generate.

    Raises:
        ValueError: as in `check_reading_trees`.
    """
    _refuse_where_wrong(
        drafting,
        model,
        "does not draft as it generates",
        "use another draft model, or a draft head",
    )


def check_giving_states(model: Any) -> None:
    """Refuse a target whose layers take other states than heads read.

    Raises:
        ValueError: says which, or what the model raised.
    """
    _refuse_where_wrong(
        giving_states,
        model,
        "has no hidden states that a head could read",
        "generate without a head",
    )


def _refuse_where_wrong(trial: Trial, model: Any, fault: str, remedy: str) -> None:
    """Raise a ValueError with the fault, what the trial found and the remedy."""
    wrong = outcome(trial, unwrap(model))
    if wrong:
        raise ValueError(f"{_name(model)} {fault}: {wrong}; {remedy}")


def wrong_in_turning_sinks(model: Any) -> str:
    """What is wrong with a draft model's attention sinks when they follow a window, "" if nothing.

    Raises:
        ValueError: as in `outcome`.
    """
    return outcome(turning_sinks, unwrap(model))


def wrong_in_reading_chunks(model: Any) -> str:
    """What is wrong with a target's reading of a prompt in chunks, "" if nothing.

    Some let a prompt's tokens see each other both ways.

    Raises:
        ValueError: as in `outcome`.
    """
    return outcome(reading_chunks, unwrap(model))


def verifying(model: PreTrainedModel) -> float:
    """How far the logits of a target's verification are from plain generate's."""
    return _from_plain(model, verified_logits)


def drafting(model: PreTrainedModel) -> float:
    """How far the logits that a model drafts by are from plain generate's."""
    return _from_plain(model, drafted_logits)


def turning_sinks(model: PreTrainedModel) -> float:
    """How far turned keys are from those that the model writes at the new positions."""
    _read(model, Text.random(model.config, execution_device(model)).prompts)
    return max(_distance(turned, read) for turned, read in turned_and_read_keys(model))


def reading_chunks(model: PreTrainedModel) -> float:
    """How far the logits behind prompts in chunks are from those behind whole prompts.

    A prompt alone, and a batch: some see both ways only where there is no padding.
    """
    text = Text.random(model.config, execution_device(model))
    distances = []
    for rows in (1, len(text.prompts)):
        try:
            whole = prompt_logits(model, text, rows, size=None)
        except Exception as error:
            raise Unfit(f"reading a prompt raises {_first_line(error)}") from error
        if not whole.isfinite().all():  # as in `_from_plain`
            raise Unfit(f"a prompt's logits in {model.dtype} are not finite")
        distances.append(_distance(prompt_logits(model, text, rows, CHUNK), whole))
    return max(distances)


def giving_states(model: PreTrainedModel) -> float:
    """0, where one state a token, as wide as its embedding, enters as many layers as heads read."""
    prompts = Text.random(model.config, execution_device(model)).prompts
    expected = model.get_input_embeddings()(prompts).shape  # [B, S, H]
    with capture_aux(model, list(range(len(decoder_layers(model))))) as aux:
        _read(model, prompts)
        shapes = aux.shapes()
    others = {layer: shape for layer, shape in shapes.items() if shape != expected}
    if len(shapes) - len(others) < min(len(shapes), READ_LAYERS):
        layer, shape = next(iter(others.items()))
        raise ValueError(f"{list(shape)} enters layer {layer}, not {list(expected)}")
    return 0.0


def outcome(trial: Trial, model: PreTrainedModel) -> str:
    """What is wrong with a model, "" if nothing is; tried once for each class and config.

    Raises:
        ValueError: the model itself has to be tried, and is in training mode.
    """
    facts = repr(model.config.to_dict())
    has_weights = execution_device(model).type != "meta"
    key = (trial, type(model), attention_implementation(model.config), facts, has_weights)
    if key not in _outcomes:
        with torch.no_grad(), quiet_libraries():
            _outcomes[key] = _try(trial, model)
    return _outcomes[key]


def _try(trial: Trial, model: PreTrainedModel) -> str:
    """What is wrong with the first of a model's stand-ins from which something can be learnt."""
    reasons = []
    for subject, make in _stand_ins(model):
        try:
            return _judge(trial, make(), subject)
        except Unfit as error:
            reasons.append(str(error))
    return "it cannot be tried: " + ", ".join(dict.fromkeys(reasons))


def _stand_ins(model: PreTrainedModel) -> Iterator[tuple[str, Callable[[], PreTrainedModel]]]:
    """What answers for a model and how to get it, the cheapest and most exact first."""
    for dtype in TOLERANCE:
        yield "a tiny random model of its config", partial(_tiny, model, dtype)
    yield "the model", partial(_itself, model)


def _tiny(model: PreTrainedModel, dtype: torch.dtype) -> PreTrainedModel:
    """A tiny random model of the same class and config."""
    try:
        return miniature(type(model), model.config, dtype)
    except Exception as error:  # whatever a class raises for sizes that do not suit it
        raise Unfit(f"a tiny model of its config raises {_first_line(error)}") from error


def _itself(model: PreTrainedModel) -> PreTrainedModel:
    """The model, where it has weights and no dropout."""
    if execution_device(model).type == "meta":
        raise Unfit("its own weights are not at hand")
    if model.training:
        raise ValueError(f"{_name(model)} is in training mode; call eval() before generate")
    return model


def _judge(trial: Trial, model: PreTrainedModel, subject: str) -> str:
    """What is wrong with a model."""
    try:
        distance = trial(model)
    except Unfit:
        raise
    except Exception as error:  # whatever a forward raises for what it cannot take
        return f"{subject} raised {_first_line(error)}"
    if distance <= TOLERANCE.get(model.dtype, ROUGH):
        return ""
    return f"{subject} was off by {distance:.2g} standard deviations"


def _from_plain(model: PreTrainedModel, door: Callable[..., list[torch.Tensor]]) -> float:
    """The largest distance of a door's logits from plain generate's, over all branches."""
    text = Text.random(model.config, execution_device(model))
    lines = text.lines()
    try:
        plain = plain_logits(model, text, lines)
    except Exception as error:
        raise Unfit(f"plain generate raises {_first_line(error)}") from error
    if not all(logits.isfinite().all() for logits in plain):
        # eager attention does its softmax in float32, where a float64 mask is minus infinity
        raise Unfit(f"plain generate in {model.dtype} gives logits that are not finite")
    trees = door(model, text)
    distances = []
    for line, logits in zip(lines, plain, strict=True):
        of_branch = trees[line.turn][line.row, list(line.branch)]
        distances.append(_distance(of_branch, logits))
    return max(distances)


def _read(model: PreTrainedModel, prompts: torch.Tensor) -> None:
    """Run a model over prompts [B, S]."""
    try:
        model(input_ids=prompts, use_cache=False)
    except Exception as error:  # for example, experts that do not run in float64
        raise Unfit(f"its forward raises {_first_line(error)}") from error


def _distance(found: torch.Tensor, right: torch.Tensor) -> float:
    """The largest difference, in standard deviations of what is right."""
    if not found.isfinite().all():
        return float("inf")
    difference = (found.to(right.device) - right).abs().max() / right.std()
    return float(difference)


def _first_line(error: Exception) -> str:
    """An exception's kind and the first line of what it says."""
    lines = str(error).strip().splitlines() or ["without a text"]
    return f"{type(error).__name__} ({lines[0][:120]})"


def _name(model: Any) -> str:
    """The class of the model inside its wrappers."""
    return type(unwrap(model)).__name__
