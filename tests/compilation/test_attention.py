"""Attention over a cache in place equals torch's over repeated keys."""

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from eagle_hf.compilation.attention import load_attention

# B, h, g, N, T, L, D
SIZES = [
    (1, 9, 3, 1, 512, 257, 64),
    (2, 4, 2, 5, 64, 33, 8),
    (1, 9, 3, 8, 1024, 700, 64),
    (3, 8, 8, 3, 300, 256, 80),
    (1, 4, 1, 2, 20, 3, 20),
]


@pytest.fixture(autouse=True)
def _operator():
    load_attention()


def operands(sizes, dtype, seed=0):
    """Queries, the slots in use of larger buffers, and a mask of which each row sees slot 0."""
    torch.manual_seed(seed)
    batch, heads, groups, tokens, capacity, length, width = sizes
    query = torch.randn(batch, tokens, heads, width, dtype=dtype).transpose(1, 2)
    key = torch.randn(batch, groups, capacity, width, dtype=dtype)[:, :, :length]
    value = torch.randn(batch, groups, capacity, width, dtype=dtype)[:, :, :length]
    mask = torch.rand(batch, 1, tokens, length) < 0.5
    mask[..., 0] = True
    return query, key, value, mask


def expected(query, key, value, mask, scale):
    """Attention in float64 over repeated keys."""
    repeats = query.shape[1] // key.shape[1]
    key = key.double().repeat_interleave(repeats, 1)
    value = value.double().repeat_interleave(repeats, 1)
    return scaled_dot_product_attention(query.double(), key, value, mask, scale=scale)


@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [(torch.float32, 2e-6), (torch.float64, 1e-13), (torch.bfloat16, 1e-2)],
)
@pytest.mark.parametrize("sizes", SIZES)
def test_attention_equals_that_over_repeated_keys(sizes, dtype, tolerance):
    tensors = operands(sizes, dtype)
    output = torch.ops.eagle_hf.attend(*tensors, 0.3)
    torch.testing.assert_close(output.double(), expected(*tensors, 0.3), atol=tolerance, rtol=0)


@pytest.mark.parametrize("sizes", SIZES)
def test_a_token_alone_and_among_others_has_the_same_bits(sizes):
    query, key, value, mask = operands(sizes, torch.float32)
    together = torch.ops.eagle_hf.attend(query, key, value, mask, 0.3)
    for token in range(query.shape[2]):
        part = slice(token, token + 1)
        alone = torch.ops.eagle_hf.attend(query[:, :, part], key, value, mask[:, :, part], 0.3)
        assert torch.equal(alone, together[:, :, part])


def test_large_scores_do_not_overflow():
    query, key, value, mask = operands(SIZES[0], torch.float32)
    query = query * 1000
    output = torch.ops.eagle_hf.attend(query, key, value, mask, 1.0)
    torch.testing.assert_close(
        output.double(), expected(query, key, value, mask, 1.0), atol=1e-3, rtol=0
    )


def test_a_token_that_sees_nothing_gets_zeros():
    query, key, value, mask = operands(SIZES[1], torch.float32)
    mask[0, 0, 2] = False
    output = torch.ops.eagle_hf.attend(query, key, value, mask, 0.3)
    assert torch.equal(output[0, :, 2], torch.zeros_like(output[0, :, 2]))


def test_wrong_operands_are_refused():
    query, key, value, mask = operands(SIZES[1], torch.float32)
    with pytest.raises(RuntimeError, match="a bool mask"):
        torch.ops.eagle_hf.attend(query, key, value, mask.float(), 0.3)
    with pytest.raises(RuntimeError, match="do not fit together"):
        torch.ops.eagle_hf.attend(query, key[:, :, 1:], value[:, :, 1:], mask, 0.3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_states_go_to_their_slots_and_nowhere_else(dtype):
    torch.manual_seed(0)
    buffers = [torch.randn(2, 3, 20, 8, dtype=dtype) for _ in range(2)]
    wanted = [buffer.clone() for buffer in buffers]
    states = [torch.randn(2, 4, 3, 8, dtype=dtype).transpose(1, 2) for _ in range(2)]
    slots = torch.tensor([[3, 4, 5, 6], [19, 0, 7, 2]])
    for buffer, state in zip(wanted, states, strict=True):
        for row in range(2):
            buffer[row, :, slots[row]] = state[row]
    torch.ops.eagle_hf.store(*buffers, *states, slots)
    assert torch.equal(buffers[0], wanted[0])
    assert torch.equal(buffers[1], wanted[1])
    with pytest.raises(RuntimeError, match="a slot outside of the buffer"):
        torch.ops.eagle_hf.store(*buffers, *states, slots + 1)
