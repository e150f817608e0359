"""The products of linear.cpp equal torch's, and a row's does not depend on the other rows."""

import subprocess
import sys

import pytest
import torch
from torch.nn import functional

from eagle_hf.compilation import is_available, linear, linears
from eagle_hf.compilation.operators import MOST_ROWS

pytestmark = pytest.mark.skipif(not is_available(), reason="needs a C++ compiler")
DTYPES = (torch.float32, torch.bfloat16)
SHAPES = [(1, 1), (3, 7), (2, 33), (193, 64), (7, 577), (20, 5000)]  # N, K
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2**-8}


def seeded(*shape, dtype=torch.float32):
    """Random numbers that are the same in every run."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape))).to(dtype)


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
        product = torch.ops.eagle_hf.linear(x, weight, bias)
        assert product.dtype == dtype
        assert relative_error(product, x, weight, bias) < TOLERANCE[dtype]


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


def test_bfloat16_weights_are_multiplied_with_float32():
    weight = seeded(9, 333, dtype=torch.bfloat16)
    x = seeded(3, 333)
    product = torch.ops.eagle_hf.linear(x, weight, None)
    assert product.dtype == torch.float32
    assert relative_error(product, x, weight, torch.zeros(9)) < TOLERANCE[torch.float32]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_several_products_equal_one_by_one(dtype):
    x = seeded(2, 5, 64, dtype=dtype)
    weights = [seeded(columns, 64, dtype=dtype) for columns in (40, 1, 13)]
    for product, weight in zip(linears(x, weights), weights, strict=True):
        assert torch.equal(product, linear(x, weight))


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
        (torch.zeros(2, 8), torch.zeros(5, 8).double(), None, "in float32 or in bfloat16"),
        (torch.zeros(2, 8), torch.zeros(8, 5).T, None, "rows are contiguous"),
        (torch.zeros(2, 8), torch.zeros(5, 8), torch.zeros(4), r"a bias \[N\]"),
    ],
)
def test_the_operator_refuses_what_it_would_compute_wrongly(x, weight, bias, message):
    with pytest.raises(RuntimeError, match=message):
        torch.ops.eagle_hf.linear(x, weight, bias)


def test_gradients_and_other_dtypes_go_to_torch():
    weight = seeded(5, 8).requires_grad_()
    linear(seeded(2, 8), weight).sum().backward()
    assert weight.grad is not None
    assert linear(torch.ones(2, 8).double(), torch.ones(5, 8).double()).dtype == torch.float64


class TwoLayers(torch.nn.Module):
    """A product of each operator."""

    def __init__(self):
        super().__init__()
        self.first = torch.nn.Linear(16, 24)
        self.second = torch.nn.Linear(24, 8, bias=False)

    def forward(self, x):
        hidden = linear(x, self.first.weight, self.first.bias).relu()
        return linears(hidden, [self.second.weight, self.second.weight[:3]])


@torch.no_grad()
def test_it_can_be_exported_and_traced():
    model = TwoLayers().eval()
    x = seeded(2, 4, 16)
    exported = torch.export.export(model, (x,))
    targets = {node.target for node in exported.graph.nodes}
    assert torch.ops.eagle_hf.linear.default in targets
    assert torch.ops.eagle_hf.linears.default in targets
    for product, expected in zip(exported.module()(x), model(x), strict=True):
        assert torch.equal(product, expected)


def test_the_operators_pass_torchs_own_checks():
    x = seeded(2, 4, 16)
    weight = seeded(3, 16)
    for dtype in DTYPES:
        inputs = (x.to(dtype), weight.to(dtype), None)
        torch.library.opcheck(torch.ops.eagle_hf.linear.default, inputs)
        torch.library.opcheck(torch.ops.eagle_hf.linears.default, (inputs[0], [inputs[1]] * 2))


def test_one_openmp_runtime_is_loaded():
    code = (
        "import torch; from eagle_hf.compilation import linear;"
        "linear(torch.ones(4, 512), torch.ones(512, 512));"
        "paths = {line.split()[-1] for line in open('/proc/self/maps')};"
        "print(*[path for path in paths if 'gomp' in path or 'iomp' in path or 'libomp' in path])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert len(done.stdout.split()) == 1
