"""Traces of torch.profiler, written by hand: what runs on a GPU, in graphs, and unknown operators.

Times are in microseconds, as in the files.
"""

import json
from collections import defaultdict

import pytest

from eagle_hf.measuring.profiling.chrome_trace import read_trace
from eagle_hf.measuring.profiling.groups import (
    ATTENTION,
    BETWEEN,
    CHOICE,
    COMPILED,
    COPIES,
    ELEMENTWISE,
    LM_HEAD,
    OTHER,
    PRODUCTS,
    kernel_group,
    operator_group,
    read_product,
)

FLOAT = ["float", "float", ""]
VOCABULARY = 100


def event(name, start, duration, category="cpu_op", thread=1, **arguments):
    """A complete event of a trace."""
    return {
        "ph": "X",
        "cat": category,
        "name": name,
        "pid": 1,
        "tid": thread,
        "ts": start,
        "dur": duration,
        "args": arguments,
    }


def block(name, start, duration):
    return event(name, start, duration, "user_annotation")


def launch(start, correlation):
    return event("cudaLaunchKernel", start, 1, "cuda_runtime", correlation=correlation)


def kernel(name, start, duration, correlation):
    return event(name, start, duration, "kernel", thread=7, correlation=correlation)


@pytest.fixture
def read(tmp_path):
    """A function that reads a trace of such events."""

    def read_events(*events):
        path = tmp_path / "trace.json"
        path.write_text(json.dumps({"traceEvents": [*events, {"ph": "M", "name": "process_name"}]}))
        return read_trace(path, [VOCABULARY])

    return read_events


def microseconds(rounds):
    """Calls as (phase, group, name): microseconds."""
    found = defaultdict(int)
    for call in rounds.calls:
        found[call.phase, call.group, call.name] += round(call.seconds * 1e6, 6)
    return found


def test_calls_are_the_outermost_operators_and_the_rest_is_python(read):
    rounds = read(
        event("aten::add", 0, 5),  # before the round
        block("eagle_hf.round", 10, 100),
        block("eagle_hf.draft", 20, 60),
        block("eagle_hf.head", 30, 20),
        event("aten::mul", 31, 10),
        event("aten::add", 33, 5),  # inside mul
        event("aten::topk", 60, 4),
        event("aten::cat", 90, 7),
    )
    assert microseconds(rounds) == {
        ("head", ELEMENTWISE, "aten::mul"): 10,
        ("head", BETWEEN, "Python"): 10,
        ("draft", CHOICE, "aten::topk"): 4,
        ("draft", BETWEEN, "Python"): 36,
        ("outside", COPIES, "aten::cat"): 7,
        ("outside", BETWEEN, "Python"): 33,
    }
    assert [(span.phase, round(span.start * 1e6)) for span in rounds.spans] == [
        ("draft", 10),
        ("head", 20),
    ]


def test_a_compiled_region_is_its_operators_and_compiled_kernels(read):
    rounds = read(
        block("eagle_hf.round", 0, 100),
        block("eagle_hf.target", 0, 100),
        event("TorchDynamo Cache Lookup", 1, 4),
        event("Torch-Compiled Region: 0/0", 10, 80),
        event(
            "eagle_hf::linear", 20, 30, **{"Input Dims": [[2, 8], [4, 8], []], "Input type": FLOAT}
        ),
    )
    assert microseconds(rounds) == {
        ("target", BETWEEN, "Python"): 20,
        ("target", PRODUCTS, "eagle_hf::linear"): 30,
        ("target", COMPILED, "Torch-Compiled Region: 0/0"): 50,
        ("outside", BETWEEN, "Python"): 0,
    }


def test_other_threads_do_not_count(read):
    rounds = read(block("eagle_hf.round", 0, 10), event("aten::add", 2, 5, thread=2))
    assert microseconds(rounds) == {("outside", BETWEEN, "Python"): 10}


def test_on_a_gpu_kernels_count_for_the_operator_and_phase_that_launched_them(read):
    linear = {"Input Dims": [[1, 8], [VOCABULARY, 8], []], "Input type": FLOAT}
    rounds = read(
        block("eagle_hf.round", 0, 100),
        block("eagle_hf.target", 0, 90),
        event("aten::linear", 5, 10, **linear),
        event("aten::mm", 6, 8),
        launch(7, correlation=1),
        event("CompiledFunction", 30, 20),
        event("cudaGraphLaunch", 31, 2, "cuda_runtime", correlation=2),
        event("eagle_hf.target", 40, 30, "gpu_user_annotation", thread=7),
        kernel("sm90_gemm", 40, 20, correlation=1),
        kernel("nvjet_gemv", 60, 5, correlation=2),
        kernel("triton_red_fused_mean_rsqrt", 65, 10, correlation=2),
        event("Memcpy DtoH", 75, 2, "gpu_memcpy", thread=7, correlation=2),
        kernel("nobody_knows", 80, 3, correlation=99),
    )
    assert microseconds(rounds) == {
        ("target", LM_HEAD, "aten::linear"): 20,
        ("target", PRODUCTS, "nvjet_gemv"): 5,
        ("target", COMPILED, "triton_red_fused_mean_rsqrt"): 10,
        ("target", COPIES, "Memcpy DtoH"): 2,
        ("outside", OTHER, "nobody_knows"): 3,
        ("outside", BETWEEN, "GPU without a kernel"): 60,
    }
    (lm_head,) = [call for call in rounds.calls if call.group == LM_HEAD]
    assert lm_head.product.weight_bytes == 4 * 8 * VOCABULARY
    assert lm_head.start == pytest.approx(40e-6)


@pytest.mark.parametrize(
    "operator, dims, dtypes, text, weight_bytes",
    [
        ("aten::linear", [[1, 3, 8], [5, 8], []], FLOAT, "3 x 8 -> 5", 160),
        ("aten::linear", [[3, 8], [5, 8], [5]], ["c10::BFloat16"] * 3, "3 x 8 -> 5", 80),
        ("aten::mm", [[3, 8], [8, 5]], FLOAT[:2], "3 x 8 -> 5", 160),
        ("aten::addmm", [[5], [3, 8], [8, 5], [], []], ["float"] * 5, "3 x 8 -> 5", 160),
        ("aten::addmm", [[8], [4, 8], [8, 8], [], [], [4, 8]], ["float"] * 6, "4 x 8 -> 8", 256),
        ("aten::mv", [[5, 8], [8]], FLOAT[:2], "1 x 8 -> 5", 160),
        ("aten::addmv", [[5], [5, 8], [8], [], []], ["float"] * 5, "1 x 8 -> 5", 160),
        ("eagle_hf::linear", [[3, 8], [5, 8], []], FLOAT, "3 x 8 -> 5", 160),
        ("aten::linear", [[3, 8], [5, 8], []], ["strange", "strange", ""], "3 x 8 -> 5", 0),
    ],
)
def test_products_are_read_from_shapes(operator, dims, dtypes, text, weight_bytes):
    product = read_product(operator, dims, dtypes)
    assert str(product) == text
    assert product.weight_bytes == weight_bytes
    assert operator_group(operator, product, [VOCABULARY]) == PRODUCTS


@pytest.mark.parametrize(
    "operator, group",
    [
        ("eagle_hf::attend", ATTENTION),
        ("aten::scaled_dot_product_attention", ATTENTION),
        ("aten::_scaled_dot_product_flash_attention_for_cpu", ATTENTION),
        ("bitsandbytes::gemv_4bit", PRODUCTS),
        ("aten::add_", ELEMENTWISE),
        ("aten::_to_copy", COPIES),
        ("aten::argmax", CHOICE),
        ("aten::_softmax", CHOICE),
        ("somebody::invention", OTHER),
    ],
)
def test_operators_are_grouped_by_name(operator, group):
    assert operator_group(operator, None, [VOCABULARY]) == group


def test_products_of_activations_are_attention():
    shapes = [[1, 4, 2, 8], [1, 4, 8, 6]]
    product = read_product("aten::matmul", shapes, FLOAT[:2])
    assert product is None
    assert operator_group("aten::matmul", product, []) == ATTENTION


@pytest.mark.parametrize(
    "kernel_name, group",
    [
        ("fmha_cutlassF_f32", ATTENTION),
        ("void cutlass::Kernel2<gemm>", PRODUCTS),
        ("at::native::vectorized_elementwise_kernel", ELEMENTWISE),
        ("at::native::CatArrayBatchedCopy", COPIES),
        ("at::native::gatherTopK", CHOICE),
        ("mystery", OTHER),
    ],
)
def test_kernels_of_captured_graphs_are_grouped_by_name(kernel_name, group):
    assert kernel_group(kernel_name) == group
