"""The roofline's formulas, by hand."""

from collections.abc import Callable
from typing import Any

import pytest
from magicdec import A100, H100, LLAMA2, LLAMA3, TINY

from eagle_hf.planning import roofline
from eagle_hf.planning.roofline import (
    MACHINES,
    MAGICDEC_A100,
    MAGICDEC_H100,
    SHAPES,
    Efficiency,
    Machine,
    ModelShape,
    Setting,
    Simulated,
)

PEAK = Efficiency(memory=1, compute=1, layer_seconds=0)


def test_a_row_twice_as_long_costs_the_time_its_cache_takes_to_read():
    short = roofline.forward_seconds(LLAMA2, A100, PEAK, 128, 4000, 1, gpus=8)
    long = roofline.forward_seconds(LLAMA2, A100, PEAK, 128, 8000, 1, gpus=8)
    assert long - short == pytest.approx(128 * 4000 * 524288 / (8 * 2.039e12))  # 16.5 ms


def test_llama_3_has_the_published_number_of_parameters():
    projections = 4096 * 4096 * 2 + 2 * 4096 * 1024
    layer = projections + 3 * 4096 * 14336 + 2 * 4096
    assert LLAMA3.parameters == 32 * layer + 2 * 128256 * 4096 + 4096
    assert LLAMA3.parameters == 8_030_261_248


def test_the_caches_have_the_published_bytes_per_token():
    assert LLAMA3.kv_bytes_per_token == 2 * 2 * 32 * 8 * 128 == 131072
    assert LLAMA2.kv_bytes_per_token == 2 * 2 * 32 * 32 * 128 == 524288


def test_the_shapes_have_the_published_billions_of_parameters():
    billions = {name: round(shape.parameters / 1e9, 2) for name, shape in SHAPES.items()}
    assert billions == {
        "TinyLlama-1.1B": 1.10,
        "Llama-2-7B-32K": 6.74,
        "Llama-3.1-8B": 8.03,
        "Llama-3.1-70B": 70.55,
        "Qwen3-0.6B": 0.60,
        "Qwen3-1.7B": 1.72,
        "Qwen3-4B": 4.02,
        "Qwen3-8B": 8.19,
        "Qwen3-14B": 14.77,
        "Qwen3-32B": 32.76,
    }


@pytest.mark.parametrize(
    ("size", "billions"),  # "non-embedding" on Qwen's model cards
    [("0.6B", 0.44), ("1.7B", 1.4), ("4B", 3.6), ("8B", 6.95), ("14B", 13.2), ("32B", 31.2)],
)
def test_qwens_shapes_have_the_published_parameters_besides_the_embeddings(size, billions):
    shape = SHAPES[f"Qwen3-{size}"]
    embeddings = shape.vocab * shape.hidden * (1 if shape.tied else 2)
    assert (shape.parameters - embeddings) / 1e9 == pytest.approx(billions, rel=0.012)


TOY = ModelShape(
    "toy", layers=2, hidden=4, heads=2, kv_heads=1, head_dim=2, intermediate=8, vocab=10
)


def test_a_toys_matrices_and_cache_are_those_counted_by_hand():
    assert TOY.matrix_parameters == 2 * (4 * 4 * 2 + 2 * 4 * 2 + 3 * 4 * 8) + 40 == 328
    assert TOY.kv_bytes_per_token == 16


@pytest.mark.parametrize(
    ("forward", "expected"),
    # Projections: 656 bytes at 50/s = 13.12 s, or 656 FLOPs a token at 100/s = 6.56 s. Cache: 16
    # bytes a token at 50/s. Attention: 32 FLOPs a token and cached token at 100/s. Layers: 2 * 3 s.
    [
        (dict(batch=1, length=5, tokens=1), 6 + 13.12 + 5 * 16 / 50),
        (dict(batch=3, length=5, tokens=1), 6 + 3 * 6.56 + 15 * 16 / 50),
        (dict(batch=3, length=5, tokens=4), 6 + 12 * 6.56 + 15 * 4 * 32 / 100),
        # one KV head: the cache is on both GPUs
        (
            dict(batch=3, length=5, tokens=4, gpus=2),
            6 + 6 * 6.56 + max(15 * 16 / 50, 30 * 32 / 100),
        ),
        (dict(batch=3, length=5, tokens=1, gpus=2), 6 + max(6.56, 1.5 * 6.56) + 15 * 16 / 50),
    ],
)
def test_a_forward_is_the_sum_of_its_operations_each_limited_by_memory_or_by_multiplications(
    forward, expected
):
    machine = Machine("toy", flops=1000, bandwidth=100, memory_bytes=1e6)
    efficiency = Efficiency(memory=0.5, compute=0.1, layer_seconds=3.0)
    seconds = roofline.forward_seconds(TOY, machine, efficiency, **forward)
    assert seconds == pytest.approx(expected)


def test_a_chain_makes_the_tokens_of_the_geometric_series():
    assert roofline.chain_tokens(0.8, 2) == pytest.approx(1 + 0.8 + 0.64)
    assert roofline.chain_tokens(0.7, 6) == pytest.approx((1 - 0.7**7) / 0.3)
    assert roofline.chain_tokens(1, 4) == 5
    assert roofline.chain_tokens(0, 4) == 1


def a100_seconds(
    shape: ModelShape, length: int, tokens: int, batch: int = 64, gpus: int = 8
) -> float:
    """A forward on A100s, with the shipped efficiency."""
    return roofline.forward_seconds(shape, A100, MAGICDEC_A100, batch, length, tokens, gpus)


def test_self_speculation_is_tokens_over_the_cost_of_a_round():
    setting = Setting(LLAMA2, A100, batch=64, length=16000, gpus=8)
    draft = a100_seconds(LLAMA2, 512, 1)
    plain = a100_seconds(LLAMA2, 16000, 1)
    verify = a100_seconds(LLAMA2, 16000, 4)
    found = roofline.self_speculation(setting, MAGICDEC_A100, gamma=3, alpha=0.8, window=512)
    tokens = 1 + 0.8 + 0.64 + 0.512
    assert found.value == pytest.approx(tokens * plain / (3 * draft + verify))


def test_a_drafters_window_never_exceeds_the_row():
    setting = Setting(LLAMA2, A100, batch=64, length=16000, gpus=8)
    draft = a100_seconds(TINY, 16000, 1, gpus=4)
    plain = a100_seconds(LLAMA2, 16000, 1)
    verify = a100_seconds(LLAMA2, 16000, 4)
    found = roofline.draft_model(setting, MAGICDEC_A100, TINY, 3, 0.8, window=10**6, draft_gpus=4)
    tokens = 1 + 0.8 + 0.64 + 0.512
    assert found.value == pytest.approx(tokens * plain / (3 * draft + verify))


def h100_tree(setting: Setting, window: int | None = None) -> float:
    """The speedup of an EAGLE-3 head with trees of 8 nodes on H100s."""
    found = roofline.eagle_head(
        setting,
        MAGICDEC_H100,
        tau=2.9,
        nodes=8,
        depth=3,
        top_k=5,
        draft_vocab=32000,
        window=window,
    )
    return found.value


def test_an_eagle_head_has_one_layer_that_reads_twice_the_width():
    head = roofline.eagle_shape(LLAMA3, 32000)
    attention = 2 * 4096 * 40 * 128
    mlp = 3 * 4096 * 14336
    doubled = 4096 * 48 * 128  # queries, keys and values of embedding and state side by side
    matrices = attention + mlp + doubled + 3 * 4096**2 + 4096 * 32000
    assert head.matrix_parameters == matrices
    assert head.parameters - 3 * 4096 == matrices
    assert head.kv_bytes_per_token == 131072 / 32


def test_an_eagle_head_costs_one_layer_a_level():
    head = roofline.eagle_shape(LLAMA3, 32000)

    def seconds(shape: ModelShape, tokens: float) -> float:
        return roofline.forward_seconds(shape, H100, MAGICDEC_H100, 64, 1000, tokens)

    levels = seconds(head, 2.9) + seconds(head, 5) + seconds(head, 5)
    expected = 2.9 * seconds(LLAMA3, 1) / (levels + seconds(LLAMA3, 9))
    assert h100_tree(Setting(LLAMA3, H100, 64, 1000)) == pytest.approx(expected)


def test_a_tree_pays_until_multiplications_run_out():
    assert h100_tree(Setting(LLAMA3, H100, 1, 1000, 8)) > 2.5
    assert h100_tree(Setting(LLAMA3, H100, 256, 1000, 8)) < 1


def test_a_window_makes_the_heads_drafts_cheaper():
    setting = Setting(LLAMA3, H100, 64, 32000, 8)
    assert h100_tree(setting, window=512) > h100_tree(setting, window=None)


VAST = Machine("vast A100", A100.flops, A100.bandwidth, memory_bytes=1e18)
VASTLY_USED = Efficiency(memory=0.9, compute=0.5, layer_seconds=203e-6)


def vast_speedup(batch: int, length: int) -> Simulated:
    """Self-speculation on a GPU that holds any batch."""
    setting = Setting(LLAMA3, VAST, batch, length)
    return roofline.self_speculation(setting, VASTLY_USED, 3, 0.8, 512)


@pytest.mark.parametrize("length", [2000, 30000])
def test_large_batches_approach_the_ceiling(length):
    ceiling = roofline.large_batch_ceiling(
        Setting(LLAMA3, VAST, 10**6, length), VASTLY_USED, gamma=3, alpha=0.8, window=512
    ).value
    assert vast_speedup(10**6, length).value == pytest.approx(ceiling, rel=1e-4)
    assert vast_speedup(32, length).value != pytest.approx(ceiling, rel=0.05)


def test_large_batches_break_even_at_the_length_of_the_formula():
    length = large_batch_break_even(alpha=0.8)
    critical = 2 * LLAMA3.matrix_parameters / 131072 * (2.039e12 * 0.9) / (312e12 * 0.5)
    assert length == pytest.approx(((7 - 2.952) * critical + 3 * 512) / 1.952)


def test_a_search_finds_the_break_even_of_the_formula():
    def predict(at: int) -> Simulated:
        return vast_speedup(10**6, at)

    found = roofline.break_even_length(predict, limit=10**5).value
    assert found == pytest.approx(large_batch_break_even(alpha=0.8), abs=2)
    with pytest.raises(ValueError, match="no length up to 1000 breaks even"):
        roofline.break_even_length(predict, limit=1000)


def test_without_accepted_drafts_no_length_breaks_even():
    with pytest.raises(ValueError, match="without accepted drafts"):
        large_batch_break_even(alpha=0.0)


def large_batch_break_even(alpha: float) -> float:
    setting = Setting(LLAMA3, VAST, 10**6, 30000)
    return roofline.large_batch_break_even(
        setting, VASTLY_USED, gamma=3, alpha=alpha, window=512
    ).value


def test_a_forward_that_does_not_fit_into_memory_is_refused_with_what_it_needs():
    with pytest.raises(
        ValueError,
        match=(
            r"needs 135.9 GB per GPU .* each A100 has 80 GB; "
            "lower batch or length, or use more GPUs"
        ),
    ):
        a100_seconds(LLAMA2, 16000, 1, batch=128)  # table 3 has no such cell either
    with pytest.raises(ValueError, match="70B .* H100"):
        roofline.forward_seconds(SHAPES["Llama-3.1-70B"], H100, MAGICDEC_H100, 1, 1000, 1)


def test_a_drafters_copy_of_the_window_needs_memory_too():
    a100_seconds(LLAMA2, 37000, 1, batch=32)  # 79.3 GB
    setting = Setting(LLAMA2, A100, 32, 37000, 8)  # 81.5 with the copy
    with pytest.raises(ValueError, match="with its drafter"):
        roofline.self_speculation(setting, MAGICDEC_A100, 2, 0.8, window=1024)


def test_self_speculation_needs_no_memory_for_weights():
    # 71 of 141 GB are weights
    setting = Setting(SHAPES["Llama-3.1-70B"], MACHINES["H200"], 1, 1000, gpus=2)
    assert roofline.self_speculation(setting, MAGICDEC_H100, 2, 0.8, 512).value < 1


def test_every_figure_says_that_it_is_simulated_and_of_what():
    setting = Setting(LLAMA2, A100, 32, 16000, gpus=8)
    chain = roofline.self_speculation(setting, MAGICDEC_A100, 2, 0.82, 512)
    assert str(chain).startswith(
        f"{chain.value:.2f}x (simulated: Llama-2-7B-32K on 8 A100, batch 32, length 16000, "
        "self-speculation"
    )
    limit = roofline.large_batch_break_even(setting, MAGICDEC_A100, 2, 0.82, 512)
    assert str(limit).startswith(
        f"{limit.value:,.0f} tokens (simulated: Llama-2-7B-32K on A100, break-even"
    )
    for figure in (
        roofline.draft_model(setting, MAGICDEC_A100, TINY, 2, 0.7, 512, 4),
        roofline.eagle_head(setting, MAGICDEC_A100, 2.9, 8, 3, 5, 32000),
        roofline.large_batch_ceiling(setting, MAGICDEC_A100, 2, 0.82, 512),
    ):
        assert "x (simulated: Llama-2-7B-32K" in str(figure)


@pytest.mark.parametrize(
    ("make", "arguments"),
    [
        (Efficiency, (1.2, 0.5, 0.0)),
        (Efficiency, (0.9, 0.0, 0.0)),
        (Efficiency, (0.9, 0.5, -1e-6)),
        (Setting, (LLAMA2, A100, 0, 100)),
        (Setting, (LLAMA2, A100, 1, 100, 0)),
        (roofline.chain_tokens, (1.2, 3)),
    ],
)
def test_impossible_numbers_are_refused(make: Callable[..., Any], arguments: tuple):
    with pytest.raises(ValueError, match="arrived"):
        make(*arguments)
