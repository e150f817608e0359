"""Targets that do not fit one device: every process holds its share of the decoder layers.

A layer is gathered when it runs and dropped again, and all processes must gather it together. So
only what they run equally often is sharded: the decoder layers, once per batch.

Embeddings and LM head stay whole on every device. Processes learn different numbers of tokens, and
run the LM head as often as these fill its chunks.

The draft head stays whole too. It is small and its LM head runs outside its forward. It trains
under DistributedDataParallel or ZeRO-1/2.
"""

import json
import os
from pathlib import Path
from weakref import WeakKeyDictionary

import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel, TrainingArguments

from eagle_hf.provenance import has_remembered_fingerprint, remember_fingerprint
from eagle_hf.target import decoder_layers, rope_limit, text_decoder, unwrap
from eagle_hf.target.quantised import quantised_linears

FSDP2 = "fsdp2"
REMEDY = (
    "use distributed_type MULTI_GPU (recipes/configs/accelerate/multi_gpu.yaml), and shard the "
    f"target: shard_target={FSDP2!r}"
)

# DeepSpeed's hooks end with its engine, so an engine lives as long as its model.
_ENGINES: WeakKeyDictionary = WeakKeyDictionary()


def check_head_stays_whole(args: TrainingArguments) -> None:
    """Refuse TrainingArguments, and accelerate's configuration behind them, that shard the head.

    Raises:
        ValueError: accelerate is configured for FSDP or ZeRO-3.
    """
    if args.fsdp or os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true":
        raise ValueError(
            "accelerate is configured for FSDP, which would shard the draft head instead of the "
            f"target; {REMEDY}"
        )
    if args.deepspeed_plugin is not None and args.deepspeed_plugin.zero_stage == 3:
        raise ValueError(
            "accelerate is configured for DeepSpeed ZeRO-3, which would shard the draft head; "
            "choose zero_stage 1 or 2 for the head and, where the target does not fit, "
            "shard_target=<a ZeRO-3 json file> (recipes/configs/deepspeed/zero3_target.json)"
        )


def check_shard_target(how: str | None, target_states_gb: float) -> None:
    """Refuse a `shard_target` that names no way to shard, or that memory of states contradicts.

    Args:
        how: as in `shard_target`.
        target_states_gb: GB of target states that each process would remember.

    Raises:
        ValueError: `how` is neither "fsdp2" nor a ZeRO-3 file, or states would be remembered.
    """
    if how is None:
        return
    if how != FSDP2:
        zero3_settings(how)
    if target_states_gb:
        raise ValueError(
            f"target_states_gb is {target_states_gb} and shard_target {how!r}: processes that "
            "remember different conversations would wait for each other's layers for ever; set "
            "target_states_gb to 0, or capture features once and train on them"
        )


def zero3_settings(path: str) -> dict:
    """Read the zero_optimization section of a DeepSpeed json file.

    What is "auto" there is left to DeepSpeed.

    Raises:
        ValueError: the file cannot be read, or its ZeRO stage is not 3.
    """
    settings = {}
    try:
        section = json.loads(Path(path).read_text(encoding="utf-8"))["zero_optimization"]
        for name, value in section.items():
            if value != "auto":
                settings[name] = value
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"shard_target is {path!r}, which cannot be read ({type(error).__name__}: {error}); "
            f"give {FSDP2!r} or a DeepSpeed json file with a zero_optimization section"
        ) from error
    if settings.get("stage") != 3:
        raise ValueError(
            f"{path} has ZeRO stage {settings.get('stage')}; only stage 3 shards parameters: set "
            "it, or leave shard_target out"
        )
    return settings


def shard_target(target: PreTrainedModel, how: str | None, device: torch.device) -> None:
    """Shard the target's decoder layers over the processes; in place.

    Each process holds 1/world of every decoder layer on `device`, and the rest of the target
    whole. Every process calls this, and from then on runs the target as often as all others.

    Args:
        target: it may lie on the CPU until now.
        how: None (nothing happens), "fsdp2", or a DeepSpeed ZeRO-3 json file, which can offload
            layers too.
        device: of this process.

    Raises:
        ValueError: one process runs alone, or the target's layers are no plain tensors.
    """
    if how is None or has_remembered_fingerprint(target):  # sharded before, by this function
        return
    check_shardable(target, how)
    remember_fingerprint(target)  # shares do not tell it
    if how == FSDP2:
        _shard_by_fsdp2(unwrap(target), device)
    else:
        _shard_by_zero3(unwrap(target), zero3_settings(how))
    target.to(device)


def check_shardable(target: PreTrainedModel, how: str) -> None:
    """Refuse a lone process, and targets whose layers are not plain tensors of this process.

    Raises:
        ValueError: naming what is in the way.
    """
    if not torch.distributed.is_initialized():
        raise ValueError(
            f"shard_target is {how!r} but one process runs alone; start it with accelerate launch, "
            "or leave shard_target out"
        )
    model = unwrap(target)
    device_map = getattr(model, "hf_device_map", None) or {}
    has_quantised_layers = next(quantised_linears(model), None) is not None
    is_quantised = has_quantised_layers or getattr(model, "hf_quantizer", None) is not None
    is_offloaded = any(parameter.is_meta for parameter in model.parameters())
    is_spread = len(set(device_map.values())) > 1
    is_sharded = any(isinstance(parameter, DTensor) for parameter in model.parameters())
    obstacles = [
        (is_quantised, "is quantised", "load it in bfloat16"),
        (is_offloaded, "is offloaded", "load it without device_map"),
        (is_spread, "lies on several devices", "load it without device_map"),
        (is_sharded, "is sharded already", "load it whole, on the CPU"),
    ]
    for is_there, what, remedy in obstacles:
        if is_there:
            raise ValueError(
                f"shard_target is {how!r} but the target {what}; {remedy}, or leave shard_target "
                "out"
            )


def check_read_at_once(target: PreTrainedModel, how: str | None, longest: int) -> None:
    """Refuse conversations that a sharded target would have to read in several forwards.

    Where a RoPE follows the longest text of a forward, a batch takes as many forwards as its
    lengths choose frequencies. Processes would then wait for each other's layers for ever.

    Args:
        target: the target.
        how: as in `shard_target`.
        longest: tokens of the longest conversation.

    Raises:
        ValueError: it is sharded, and conversations reach beyond what its RoPE reads unchanged.
    """
    limit = rope_limit(target)
    # at the limit itself, dynamic NTK needs a forward more to forget longer texts
    if how is None or longest < limit:
        return
    raise ValueError(
        f"shard_target is {how!r} and conversations have up to {longest} tokens, but the target's "
        f"RoPE has other frequencies for long texts, from {limit} tokens on, so that processes "
        f"would run it differently often; set max_length={limit - 1}, or capture features once "
        "and train on them"
    )


def _shard_by_fsdp2(model: PreTrainedModel, device: torch.device) -> None:
    mesh = init_device_mesh(torch.device(device).type, (torch.distributed.get_world_size(),))
    for layer in decoder_layers(model):
        fully_shard(layer, mesh=mesh, reshard_after_forward=True)
    whole = {parameter for parameter in model.parameters() if not isinstance(parameter, DTensor)}
    # One root over all layers: the next layer is gathered while one runs.
    fully_shard(text_decoder(model), mesh=mesh, ignored_params=whole)


def _shard_by_zero3(model: PreTrainedModel, settings: dict) -> None:
    try:
        import deepspeed
    except ImportError as error:
        raise ValueError(
            "shard_target names a ZeRO-3 file and deepspeed cannot be imported "
            f"({error}); run: pip install deepspeed"
        ) from error
    config = {
        "train_micro_batch_size_per_gpu": 1,  # the target is not trained: any batch size
        "zero_optimization": settings,
        "bf16": {"enabled": model.dtype == torch.bfloat16},
        "fp16": {"enabled": model.dtype == torch.float16},
    }
    # Layers are gathered whole: processes differ in the experts that they use.
    layer_types = {type(layer) for layer in decoder_layers(model)}
    deepspeed.utils.set_z3_leaf_modules(model, list(layer_types))
    # The embeddings stay out of DeepSpeed's sight: the LM head may be tied to them.
    embeddings = model.get_input_embeddings()
    model.set_input_embeddings(nn.Identity())
    try:
        engine, *_ = deepspeed.initialize(model=text_decoder(model), config=config)
    finally:
        model.set_input_embeddings(embeddings)
    _ENGINES[model] = engine
