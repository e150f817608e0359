"""The products of linear.cpp equal torch's, and a row's does not depend on the other rows."""

import os
import subprocess
import sys

import pytest
import torch
from torch.nn import functional

from eagle_hf.compilation.operators import is_available

pytestmark = pytest.mark.skipif(not is_available(), reason="needs a C++ compiler")
MOST_ROWS = 48  # beyond them torch multiplies
DTYPES = (torch.float32, torch.bfloat16)
SHAPES = [(1, 1), (3, 7), (2, 33), (193, 64), (7, 577), (20, 5000)]  # N, K
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2**-8}


def seeded(*shape, dtype=torch.float32):
    """Random numbers that are the same in every run."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape))).to(dtype)


def linear(x, weight, bias=None):
    """The product by the operator."""
    return torch.ops.eagle_hf.linear(x, weight, bias)


def relative_error(product, x, weight, bias):
    """The largest error against float64, relative to the size of a row's product."""
    exact = functional.linear(x.double(), weight.double(), bias.double())
    scale = x.double().norm(dim=-1, keepdim=True) * weight.double().norm(dim=-1) + bias.abs()
    return ((product.double() - exact).abs() / scale).max()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("columns", "length"), SHAPES)
def test_a_product_is_exact_within_rounding(columns, length, dtype):
    weight = seeded(columns, length, dtype=dtype)
    bias = seeded(columns, dtype=dtype)
    for rows in (1, 2, 5, 8, 33):
        x = seeded(rows, length, dtype=dtype)
        product = linear(x, weight, bias)
        assert product.dtype == dtype
        assert relative_error(product, x, weight, bias) < TOLERANCE[dtype]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("columns", "length"), SHAPES)
def test_weights_in_int8_are_whole_numbers(columns, length, dtype):
    generator = torch.Generator().manual_seed(columns)
    shape = (columns, length)
    weight = torch.randint(-128, 128, shape, dtype=torch.int8, generator=generator)
    bias = seeded(columns, dtype=dtype)
    x = seeded(60, length, dtype=dtype)
    together = linear(x[:MOST_ROWS], weight, bias)
    for rows in (1, 5, MOST_ROWS, 60):
        product = linear(x[:rows], weight, bias)
        assert product.dtype == dtype
        assert relative_error(product, x[:rows], weight, bias) < TOLERANCE[dtype]
        assert rows > MOST_ROWS or torch.equal(product, together[:rows])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("columns", "length"), SHAPES)
def test_a_row_alone_equals_the_same_row_among_others_bit_for_bit(columns, length, dtype):
    weight = seeded(columns, length, dtype=dtype)
    x = seeded(MOST_ROWS, length, dtype=dtype)
    together = linear(x, weight)
    for rows in (1, 2, 3, 8):
        for start in range(0, MOST_ROWS - rows, 7):
            some = slice(start, start + rows)
            assert torch.equal(linear(x[some], weight), together[some])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_more_rows_give_torchs_own_product(dtype):
    weight = seeded(193, 64, dtype=dtype)
    bias = seeded(193, dtype=dtype)
    x = seeded(7, 7, 64, dtype=dtype)
    assert torch.equal(linear(x, weight, bias), functional.linear(x, weight, bias))


def test_bits_do_not_depend_on_the_number_of_threads():
    weight = seeded(500, 300)
    x = seeded(4, 300)
    torch.set_num_threads(2)
    try:
        product = linear(x, weight)
    finally:
        torch.set_num_threads(1)
    assert torch.equal(product, linear(x, weight))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_x_may_have_any_leading_shape_and_strides(dtype):
    weight = seeded(9, 33, dtype=dtype)
    x = seeded(2, 3, 80, dtype=dtype).transpose(0, 1)[..., 1:67:2]
    product = linear(x, weight)
    assert product.shape == (3, 2, 9)
    assert torch.equal(product, linear(x.contiguous(), weight))


def test_rows_of_a_larger_weight_are_read_in_place():
    larger = seeded(12, 50)
    x = seeded(2, 32)
    weight = larger[2:9, 3:35]
    assert torch.equal(linear(x, weight), linear(x, weight.clone()))


def test_bfloat16_is_rounded_to_nearest_even_and_keeps_nan_and_infinity():
    values = torch.tensor([1 + 2**-8, 1 + 3 * 2**-8, float("nan"), float("inf"), -0.0])
    high = values.bfloat16()
    low = (values - high.float()).nan_to_num(0.0).bfloat16()  # the rest, exact
    product = torch.ops.eagle_hf.linear(
        torch.ones(1, 2).bfloat16(), torch.stack([high, low], 1), None
    )
    assert torch.equal(product[0].nan_to_num(7.0), values.bfloat16().nan_to_num(7.0))


def test_no_rows_give_no_rows():
    assert linear(torch.zeros(0, 8), seeded(5, 8)).shape == (0, 5)
    assert linear(seeded(3, 8), torch.zeros(0, 8)).shape == (3, 0)


@pytest.mark.parametrize(
    ("x", "weight", "bias", "message"),
    [
        (torch.zeros(2, 8), torch.zeros(5, 9), None, "the second of weight differ"),
        (torch.zeros(2, 8), torch.zeros(5, 8).double(), None, "or in int8"),
        (torch.zeros(2, 8), torch.zeros(5, 8).bfloat16(), None, "weight in the same dtype"),
        (torch.zeros(50, 8), torch.zeros(5, 8).bfloat16(), None, "weight in the same dtype"),
        (torch.zeros(()), torch.zeros(5, 8), None, r"needs x \[..., K\]"),
        (torch.zeros(2, 0), torch.zeros(5, 0), None, "at least one input feature"),
        (torch.zeros(2, 8), torch.zeros(8, 5).T, None, "rows are contiguous"),
        (torch.zeros(2, 8), torch.zeros(5, 8), torch.zeros(4), r"a bias \[N\]"),
    ],
)
def test_the_operator_refuses_what_it_would_compute_wrongly(x, weight, bias, message):
    with pytest.raises(RuntimeError, match=message):
        torch.ops.eagle_hf.linear(x, weight, bias)


class TwoLayers(torch.nn.Module):
    """Two products, one of them with a bias."""

    def __init__(self):
        super().__init__()
        self.first = torch.nn.Linear(16, 24)
        self.second = torch.nn.Linear(24, 8, bias=False)

    def forward(self, x):
        hidden = linear(x, self.first.weight, self.first.bias).relu()
        return linear(hidden, self.second.weight)


@torch.no_grad()
def test_it_can_be_exported_and_traced():
    model = TwoLayers().eval()
    x = seeded(2, 4, 16)
    exported = torch.export.export(model, (x,))
    targets = [node.target for node in exported.graph.nodes]
    assert targets.count(torch.ops.eagle_hf.linear.default) == 2
    assert torch.equal(exported.module()(x), model(x))


def test_the_operator_passes_torchs_own_checks():
    x = seeded(2, 4, 16)
    weight = seeded(3, 16)
    for dtype in DTYPES:
        inputs = (x.to(dtype), weight.to(dtype), None)
        torch.library.opcheck(torch.ops.eagle_hf.linear.default, inputs)


def test_one_openmp_runtime_is_loaded():
    code = (
        "import torch; from eagle_hf.compilation.operators import is_available;"
        "assert is_available();"
        "torch.ops.eagle_hf.linear(torch.ones(4, 512), torch.ones(512, 512), None);"
        "paths = {line.split()[-1] for line in open('/proc/self/maps')};"
        "print(*[path for path in paths if 'gomp' in path or 'iomp' in path or 'libomp' in path])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert len(done.stdout.split()) == 1


@pytest.mark.slow
@pytest.mark.skipif(
    torch.backends.cpu.get_cpu_capability() not in ("AVX2", "AVX512"), reason="needs AVX2"
)
def test_products_are_exact_with_the_instructions_of_older_processors():
    environment = {**os.environ, "ATEN_CPU_CAPABILITY": "avx2"}
    chosen = "exact_within_rounding or bit_for_bit or nearest_even"
    command = [sys.executable, "-m", "pytest", "-q", __file__, "-k", chosen]
    subprocess.run(command, env=environment, check=True)
