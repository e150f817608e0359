"""One list of layer ids means different layers to each engine."""

import pytest
from breaking import (
    IDS,
    LLAMA_CPP,
    NESTED,
    OPENVINO,
    SGLANG,
    VLLM,
    edit_head,
    found,
    nested,
    other_target,
    trained_on,
)

from eagle_hf.hub.check import check
from eagle_hf.hub.layer_ids import read_layers
from eagle_hf.hub.saved_head import open_saved_head

DEFAULT = [2, 4, 5]  # of 8 layers
ONE_FURTHER = [3, 5, 6]


# The example of eagle_hf/hub/layer_ids.py, with the same numbers.
@pytest.mark.parametrize(
    "config, vllm, sglang",
    [
        ({}, DEFAULT, DEFAULT),
        ({IDS: [1, 3, 6]}, [1, 3, 6], DEFAULT),
        (nested([0, 2, 5]), DEFAULT, [1, 3, 6]),
    ],
    ids=str,
)
def test_every_engine_looks_in_its_own_place(head, config, vllm, sglang):
    edit_head(head, config, drop=["eagle_hf"])
    with open_saved_head(head) as saved:
        read = read_layers(saved, 8, "LlamaForCausalLM")
    by_name = {engine.name: ids for engine, ids in read.items()}
    assert by_name[VLLM] == vllm
    assert by_name[LLAMA_CPP] == vllm
    assert by_name[SGLANG] == sglang
    assert by_name[OPENVINO] == ONE_FURTHER


@pytest.mark.parametrize(
    "family, ids, trained, right",
    [
        ("LlamaForCausalLM", [1, 3, 4], [2, 4, 5], True),
        ("LlamaForCausalLM", [2, 4, 5], [2, 4, 5], False),
        ("DeepseekV3ForCausalLM", [2, 4, 5], [2, 4, 5], True),
        ("DeepseekV3ForCausalLM", [1, 3, 4], [2, 4, 5], True),
        ("Glm4MoeLiteForCausalLM", [3, 4, 5], [4, 5, 6], False),
        ("GptOssForCausalLM", [2, 5, 8], [2, 5, 8], True),
        ("GptOssForCausalLM", [2, 5, 7], [2, 5, 7], False),
    ],
)
def test_sglang_reads_nested_ids_by_the_targets_class(
    head, target, tmp_path, family, ids, trained, right
):
    edit_head(head, nested(ids, **trained_on(trained)))
    report = check(head, other_target(target, tmp_path / "kind", architectures=[family]))
    assert (SGLANG in found(report, "error", NESTED)) == (not right)
