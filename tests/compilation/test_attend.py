"""Attention over a cache in place equals torch's over repeated keys."""

import subprocess
import sys

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from eagle_hf.compilation.attention import load_attention
from eagle_hf.compilation.operators import is_available

pytestmark = pytest.mark.skipif(not is_available(), reason="needs a C++ compiler")

# B, h, g, N, T, L, D
SIZES = [
    (1, 9, 3, 1, 512, 257, 64),
    (2, 4, 2, 5, 64, 33, 8),
    (1, 9, 3, 8, 1024, 700, 64),
    (3, 8, 8, 3, 300, 256, 80),
    (1, 4, 1, 2, 20, 3, 20),
]

FOUR_THREADS = """
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from eagle_hf.compilation import attention

build = attention.build_library
sources = []
together = Barrier(4)

def count(source):
    sources.append(source)
    return build(source)

def load(_):
    together.wait()
    attention.load_attention()

attention.build_library = count
list(ThreadPoolExecutor(4).map(load, range(4)))
print(len(sources))
"""


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


def test_no_slots_give_zeros():
    query, key, value, mask = operands(SIZES[1], torch.float32)
    none = slice(0)
    output = torch.ops.eagle_hf.attend(
        query, key[:, :, none], value[:, :, none], mask[..., none], 0.3
    )
    assert torch.equal(output, torch.zeros_like(query))


# slot 300 is in the last of three chunks, and the only one there that the token sees
@pytest.mark.parametrize("number", [float("nan"), float("inf")])
@pytest.mark.parametrize("broken", ["key", "value"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_a_number_that_is_none_is_not_hidden(broken, number, dtype):
    query, key, value, mask = operands((1, 2, 1, 3, 400, 310, 32), dtype)
    mask[..., 256:] = False
    mask[0, 0, 1, 300] = True
    query = query.abs()  # so that an infinite key has an infinite score
    {"key": key, "value": value}[broken][0, 0, 300] = number
    output = torch.ops.eagle_hf.attend(query, key, value, mask, 0.3)
    wanted = expected(query, key, value, mask, 0.3)
    assert not wanted[:, :, 1].isfinite().any()
    assert torch.equal(output[:, :, 1].isnan(), wanted[:, :, 1].isnan())
    assert torch.equal(output[:, :, 1].isinf(), wanted[:, :, 1].isinf())
    others = output[:, :, [0, 2]]
    assert torch.equal(others.isfinite(), torch.ones_like(others, dtype=torch.bool))


# 16 MiB hold 835 rows of 20000 slots with AVX-512: of 900 rows, or of three times 300.
@pytest.mark.parametrize(("batch", "heads"), [(1, 3), (3, 1)])
def test_rows_that_do_not_fit_at_once_have_the_same_bits(batch, heads):
    sizes = (batch, heads, 1, 300, 20000, 20000, 8)
    query, key, value, mask = operands(sizes, torch.float32)
    together = torch.ops.eagle_hf.attend(query, key, value, mask, 0.3)
    for token in (0, 234, 235, 299):
        part = slice(token, token + 1)
        alone = torch.ops.eagle_hf.attend(query[:, :, part], key, value, mask[:, :, part], 0.3)
        assert torch.equal(alone, together[:, :, part])


# B 2, h 4, g 2, N 5, L 33, D 8
@pytest.mark.parametrize(
    ("changed", "shape", "message"),
    [
        ("query", (2, 3, 5, 8), "a multiple of the key heads"),
        ("query", (2, 4, 5, 9), "one head width"),
        ("query", (4, 5, 8), "4 dimensions"),
        ("key", (2, 2, 34, 8), "key and value of the same sizes"),
        ("value", (2, 1, 33, 8), "key and value of the same sizes"),
        ("value", (1, 2, 33, 8), "key and value of the same sizes"),
        ("value", (2, 2, 33, 7), "key and value of the same sizes"),
        ("keys", (1, 2, 33, 8), "one batch size"),
        ("keys", (2, 0, 33, 8), "a multiple of the key heads"),
        ("keys", (2, 2, 32, 8), "a mask"),
        ("mask", (3, 1, 5, 33), "a mask"),
        ("mask", (2, 4, 5, 33), "a mask"),
        ("mask", (2, 1, 4, 33), "a mask"),
        ("mask", (5, 33), "4 dimensions"),
    ],
)
def test_sizes_that_do_not_fit_together_are_refused(changed, shape, message):
    names = ("query", "key", "value", "mask")
    tensors = dict(zip(names, operands(SIZES[1], torch.float32), strict=True))
    if changed == "keys":
        tensors |= {"key": torch.zeros(shape), "value": torch.zeros(shape)}
    else:
        tensors[changed] = torch.zeros(shape, dtype=tensors[changed].dtype)
    with pytest.raises(RuntimeError, match=message):
        torch.ops.eagle_hf.attend(*tensors.values(), 0.3)


def test_other_dtypes_and_strides_are_refused():
    query, key, value, mask = operands(SIZES[1], torch.float32)
    with pytest.raises(RuntimeError, match="a bool mask"):
        torch.ops.eagle_hf.attend(query, key, value, mask.float(), 0.3)
    with pytest.raises(RuntimeError, match="of one dtype"):
        torch.ops.eagle_hf.attend(query, key.double(), value, mask, 0.3)
    with pytest.raises(RuntimeError, match="computes in float32"):
        torch.ops.eagle_hf.attend(query.half(), key.half(), value.half(), mask, 0.3)
    with pytest.raises(RuntimeError, match="last dimension is contiguous"):
        torch.ops.eagle_hf.attend(query, key.mT.contiguous().mT, value, mask, 0.3)


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


def test_nothing_is_stored_unless_all_of_it_can_be():
    buffers = [torch.zeros(2, 3, 20, 8), torch.zeros(2, 3, 19, 8)]
    states = [torch.ones(2, 3, 4, 8) for _ in range(2)]
    slots = torch.tensor([[3, 4, 5, 6], [19, 0, 7, 2]])
    with pytest.raises(RuntimeError, match="a slot outside of the buffer"):
        torch.ops.eagle_hf.store(*buffers, *states, slots)
    with pytest.raises(RuntimeError, match="do not fit together"):
        torch.ops.eagle_hf.store(*buffers, states[0], states[1][:, :2], slots)
    with pytest.raises(RuntimeError, match="4 dimensions"):
        torch.ops.eagle_hf.store(*buffers, states[0], states[1][0], slots)
    assert not buffers[0].any()
    assert not buffers[1].any()


def test_threads_that_ask_at_the_same_time_load_the_library_once():
    done = subprocess.run([sys.executable, "-c", FOUR_THREADS], capture_output=True, text=True)
    assert done.stdout == "1\n", done.stderr
