"""Targets that do not fit one device: every process holds its share of the decoder layers.

A layer is gathered when it runs and dropped again, and all processes must gather it together. So only what they run
equally often is sharded: the decoder layers, once per batch. Embeddings and LM head stay whole on every device:
processes learn different numbers of tokens, and ask the LM head as often as these fill its chunks. The draft head, which is
small and whose LM head runs outside its forward, stays whole too: it trains under DistributedDataParallel or ZeRO-1/2.
"""

import json
import os
from pathlib import Path

import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from eagle_hf.provenance import weights_fingerprint
from eagle_hf.target import decoder_layers, unwrap

FSDP2 = "fsdp2"
REMEDY = f"use distributed_type MULTI_GPU (recipes/configs/accelerate/multi_gpu.yaml), and shard the target: shard_target={FSDP2!r}"


def check_head_stays_whole(args) -> None:
    """Refuse TrainingArguments, and accelerate's configuration behind them, that would shard the head."""
    if args.fsdp or os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true":
        raise ValueError(
            f"accelerate is configured for FSDP, which would shard the draft head instead of the target; {REMEDY}"
        )
    if args.deepspeed_plugin is not None and args.deepspeed_plugin.zero_stage == 3:
        raise ValueError(
            "accelerate is configured for DeepSpeed ZeRO-3, which would shard the draft head; choose zero_stage 1 or 2 for the head "
            "and, where the target does not fit, shard_target=<a ZeRO-3 json file> (recipes/configs/deepspeed/zero3_target.json)"
        )


def check_shard_target(how: str | None, target_states_gb: float) -> None:
    """Refuse a `shard_target` that is neither "fsdp2" nor a ZeRO-3 file, and states that only some processes remember."""
    if how is None:
        return
    if how != FSDP2:
        zero3_settings(how)
    if target_states_gb:
        raise ValueError(
            f"target_states_gb is {target_states_gb} and shard_target {how!r}: processes that remember different conversations "
            "would wait for each other's layers for ever; set target_states_gb to 0, or capture features once and train on them"
        )


def zero3_settings(path: str) -> dict:
    """The zero_optimization section of a DeepSpeed json file; what is "auto" there is left to DeepSpeed."""
    try:
        settings = json.loads(Path(path).read_text(encoding="utf-8"))["zero_optimization"]
        settings = {name: value for name, value in settings.items() if value != "auto"}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"shard_target is {path!r}, which cannot be read ({type(error).__name__}: {error}); give {FSDP2!r} or a DeepSpeed "
            "json file with a zero_optimization section"
        ) from error
    if settings.get("stage") != 3:
        raise ValueError(
            f"{path} has ZeRO stage {settings.get('stage')}; only stage 3 shards parameters: set it, or leave shard_target out"
        )
    return settings


def shard_target(target, how: str | None, device: torch.device) -> None:
    """Leave 1/world of every decoder layer on `device` in this process, and the rest of the target whole; in place.

    how: None (nothing happens), "fsdp2", or a DeepSpeed ZeRO-3 json file, which can offload layers too. The target may lie
    on the CPU until now. Every process calls this, and from then on runs the target as often as all others.
    """
    if hasattr(target, "whole_weights_fingerprint") or how is None:
        return
    check_shardable(target, how)
    target.whole_weights_fingerprint = weights_fingerprint(target)  # shares do not tell
    shard_layers, settings = (_fsdp2, {}) if how == FSDP2 else (_zero3, zero3_settings(how))
    shard_layers(unwrap(target), device, **settings)
    target.to(device)


def check_shardable(target, how: str) -> None:
    """Refuse a lone process, and targets whose layers are not plain tensors of this process."""
    if not torch.distributed.is_initialized():
        raise ValueError(
            f"shard_target is {how!r} but one process runs alone; start it with accelerate launch, or leave shard_target out"
        )
    model = unwrap(target)
    places = [
        (getattr(model, "hf_quantizer", None), "is quantised", "load it in bfloat16"),
        (
            len(set((getattr(model, "hf_device_map", None) or {}).values())) > 1,
            "lies on several devices",
            "load it without device_map",
        ),
        (
            any(isinstance(p, DTensor) for p in model.parameters()),
            "is sharded already",
            "load it whole, on the CPU",
        ),
    ]
    for found, what, remedy in places:
        if found:
            raise ValueError(
                f"shard_target is {how!r} but the target {what}; {remedy}, or leave shard_target out"
            )


def _fsdp2(model, device) -> None:
    mesh = init_device_mesh(torch.device(device).type, (torch.distributed.get_world_size(),))
    for layer in decoder_layers(model):
        fully_shard(layer, mesh=mesh, reshard_after_forward=True)
    whole = {parameter for parameter in model.parameters() if not isinstance(parameter, DTensor)}
    fully_shard(
        model.get_decoder(), mesh=mesh, ignored_params=whole
    )  # one root: the next layer is gathered while one runs


def _zero3(model, device, **settings) -> None:
    try:
        import deepspeed
    except ImportError as error:
        raise ValueError(
            f"shard_target names a ZeRO-3 file and deepspeed cannot be imported ({error}); run: pip install deepspeed"
        ) from error
    kinds = {
        name: {"enabled": model.dtype == kind}
        for name, kind in (("bf16", torch.bfloat16), ("fp16", torch.float16))
    }
    config = {
        "train_micro_batch_size_per_gpu": 1,
        "zero_optimization": settings,
        **kinds,
    }  # it is not trained: any batch size
    deepspeed.utils.set_z3_leaf_modules(
        model, list({type(layer) for layer in decoder_layers(model)})
    )  # whole: experts differ in use
    embeddings = model.get_input_embeddings()
    model.set_input_embeddings(
        nn.Identity()
    )  # out of DeepSpeed's sight: the LM head may be tied to them
    try:
        engine, *_ = deepspeed.initialize(model=model.get_decoder(), config=config)
    finally:
        model.set_input_embeddings(embeddings)
    vars(model)["zero3_engine"] = engine  # its hooks end with it; not a submodule
