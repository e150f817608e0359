"""Tiny targets in every layout of weights that loads on a CPU."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import tiny_target
from transformers import AutoModelForCausalLM, LlamaForCausalLM

VOCABULARY = 64  # bitsandbytes' kernels want multiples of 32, its blocks 64 inputs
LAYERS = 4


def plain_target(tied: bool = False, seed: int = 0) -> LlamaForCausalLM:
    """The target that all layouts here are made of."""
    sizes = dict(vocab_size=VOCABULARY, hidden_size=64, layers=LAYERS)
    target = tiny_target(dtype=torch.float32, tie_word_embeddings=tied, seed=seed, **sizes)
    return target.requires_grad_(False)


def _loaded(target: LlamaForCausalLM, folder: Path, **kwargs: Any) -> LlamaForCausalLM:
    """The target saved to a folder and opened again, in the layout that kwargs ask for."""
    target.save_pretrained(folder)
    loaded = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, **kwargs)
    return loaded.requires_grad_(False).eval()


def _bitsandbytes(target: LlamaForCausalLM, folder: Path, **settings: Any) -> LlamaForCausalLM:
    pytest.importorskip("bitsandbytes")
    from transformers import BitsAndBytesConfig

    # no module is skipped: the LM head is quantised too
    config = BitsAndBytesConfig(llm_int8_skip_modules=[], **settings)
    return _loaded(target, folder, quantization_config=config)


def nf4(target: LlamaForCausalLM, folder: Path) -> LlamaForCausalLM:
    """bitsandbytes, two values a byte, computed in float32 where the CPU's kernel allows it."""
    settings = dict(bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32)
    return _bitsandbytes(target, folder, load_in_4bit=True, **settings)


def int8_with_outliers(target: LlamaForCausalLM, folder: Path) -> LlamaForCausalLM:
    """bitsandbytes' int8 as it is by default: outliers of all tokens are taken out together."""
    return _bitsandbytes(target, folder, load_in_8bit=True)


def int8(target: LlamaForCausalLM, folder: Path) -> LlamaForCausalLM:
    """bitsandbytes, one byte a value."""
    return _bitsandbytes(target, folder, load_in_8bit=True, llm_int8_threshold=0.0)


def _torchao(target: LlamaForCausalLM, config: Callable[[Any], Any]) -> LlamaForCausalLM:
    quantisation = pytest.importorskip("torchao.quantization")
    target = copy.deepcopy(target)
    quantisation.quantize_(target, config(quantisation))
    return target


def torchao_int8(target: LlamaForCausalLM, folder: Path) -> LlamaForCausalLM:
    """torchao, weights alone in int8."""
    return _torchao(target, lambda ao: ao.Int8WeightOnlyConfig())


def torchao_int4(target: LlamaForCausalLM, folder: Path) -> LlamaForCausalLM:
    """torchao, weights alone in int4."""
    return _torchao(target, lambda ao: ao.IntxWeightOnlyConfig(weight_dtype=torch.int4))


def torchao_float8(target: LlamaForCausalLM, folder: Path) -> LlamaForCausalLM:
    """torchao, weights alone in float8."""
    return _torchao(target, lambda ao: ao.Float8WeightOnlyConfig())


def compressed_int8(target: LlamaForCausalLM, folder: Path) -> LlamaForCausalLM:
    """compressed-tensors in int8 (W8A8), which unpacks at its first forward."""
    pytest.importorskip("compressed_tensors")
    from compressed_tensors.compressors import ModelCompressor
    from compressed_tensors.quantization import (
        QuantizationConfig,
        QuantizationStatus,
        apply_quantization_config,
        preset_name_to_scheme,
    )

    target = copy.deepcopy(target)
    groups = {"all": preset_name_to_scheme("W8A8", ["Linear"])}
    layout = "int-quantized"
    apply_quantization_config(target, QuantizationConfig(config_groups=groups, format=layout))
    for module in target.modules():
        if hasattr(module, "weight_scale"):
            largest = module.weight.abs().amax(1, keepdim=True)
            module.weight_scale.copy_(largest / 127)
            module.quantization_status = QuantizationStatus.FROZEN
    compressor = ModelCompressor.from_pretrained_model(target, quantization_format=layout)
    compressor.compress_model(target)
    target.save_pretrained(folder)
    compressor.update_config(folder)
    loaded = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return loaded.requires_grad_(False).eval()


def dynamic(target: LlamaForCausalLM, folder: Path) -> LlamaForCausalLM:
    """torch's own dynamic quantisation: no parameters, and `weight` is a method."""
    quantize = getattr(torch.ao.quantization, "quantize_dynamic", None)
    if quantize is None:
        pytest.skip("this torch has no dynamic quantisation of its own any more")
    return quantize(copy.deepcopy(target), {torch.nn.Linear}, dtype=torch.qint8)


def disk(target: LlamaForCausalLM, folder: Path) -> LlamaForCausalLM:
    """Embeddings, norm and LM head offloaded to the disk."""
    device_map: dict[str, str] = {"model.rotary_emb": "cpu"}
    for layer in range(LAYERS):
        device_map[f"model.layers.{layer}"] = "cpu"
    for name in ("model.embed_tokens", "model.norm", "lm_head"):
        device_map[name] = "disk"
    return _loaded(target, folder, device_map=device_map, offload_folder=folder / "offloaded")


def offloaded(target: LlamaForCausalLM, folder: Path) -> LlamaForCausalLM:
    """Every module in CPU memory, brought to the device that runs it for each forward."""
    from accelerate import cpu_offload

    return cpu_offload(copy.deepcopy(target), execution_device="cpu")


# Those that compute each token by itself, so that drafting changes no answer.
EXACT = (nf4, int8, torchao_int8, torchao_int4, torchao_float8, compressed_int8, disk, offloaded)
OFFLOADED = (disk, offloaded)
ALL = (*EXACT, int8_with_outliers, dynamic)
