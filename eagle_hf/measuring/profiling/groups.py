"""Operators in groups that a reader understands, and the weights that matrix products read.

M rows, K inputs, N outputs of a matrix product.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

PRODUCTS = "matrix products"
LM_HEAD = "LM head"
ATTENTION = "attention"
ELEMENTWISE = "norms and elementwise"
COPIES = "copies and cache"
CHOICE = "argmax, top-k, softmax"
COMPILED = "compiled kernels"
OTHER = "other"
BETWEEN = "between operators"
GROUPS = (
    PRODUCTS,
    LM_HEAD,
    ATTENTION,
    ELEMENTWISE,
    COPIES,
    CHOICE,
    COMPILED,
    OTHER,
    BETWEEN,
)


def _words(text: str) -> frozenset[str]:
    """The words of a text."""
    return frozenset(text.split())


# Parts of names, of operators as of GPU kernels.
_ATTENTION_WORDS = ("attention", "attend", "fmha", "flash_fwd")
_PRODUCT_WORDS = (
    "linear",
    "matmul",
    "einsum",
    "gemm",
    "gemv",
    "cublas",
    "cutlass",
    "nvjet",
    "_mm",
    "conv1d",
)
_PRODUCT_NAMES = ("mm", "bmm", "addmm", "baddbmm", "addmv", "mv")
# Whole names, without namespace, overload and the underscore of operators in place.
_CHOICE_NAMES = _words(
    "topk sort argsort argmax argmin max min softmax log_softmax logsumexp multinomial kthvalue "
    "cummax cumsum nonzero unique"
)
_ELEMENTWISE_NAMES = _words(
    "add sub rsub mul div pow square sqrt rsqrt neg abs exp log cos sin tanh sigmoid silu gelu "
    "relu erf mean sum var norm rms_norm fused_rms_norm layer_norm native_layer_norm group_norm "
    "addcmul where masked_fill clamp clamp_min clamp_max maximum minimum eq ne lt le gt ge "
    "logical_and logical_or logical_not bitwise_and bitwise_or bitwise_not __and__ __or__ "
    "floor_divide remainder any all isin nan_to_num reciprocal softplus mish hardswish leaky_relu "
    "glu dropout"
)
_COPY_NAMES = _words(
    "cat stack copy to clone contiguous embedding index index_copy index_put index_select "
    "index_fill gather scatter scatter_add take take_along_dim masked_select masked_scatter repeat "
    "repeat_interleave roll flip tril triu pad constant_pad_nd view view_as reshape flatten "
    "transpose t permute movedim expand expand_as slice select unsqueeze squeeze narrow unfold "
    "chunk split split_with_sizes unbind as_strided alias detach lift_fresh lift_fresh_copy "
    "empty empty_like empty_strided zeros zeros_like ones ones_like full full_like new_zeros "
    "new_ones new_full new_empty arange eye fill zero item is_nonzero set resize unflatten "
    "result_type type_as to_copy pin_memory record_stream numpy_T broadcast_to local_scalar_dense "
    "swapaxes concat concatenate hstack vstack scalar_tensor tensor_split"
)
_KERNEL_WORDS = (
    ("triton_", COMPILED),
    ("topk", CHOICE),
    ("sort", CHOICE),
    ("softmax", CHOICE),
    ("argmax", CHOICE),
    ("memcpy", COPIES),
    ("memset", COPIES),
    ("copy", COPIES),
    ("catarray", COPIES),
    ("index", COPIES),
    ("gather", COPIES),
    ("scatter", COPIES),
    ("elementwise", ELEMENTWISE),
    ("reduce", ELEMENTWISE),
    ("norm", ELEMENTWISE),
)
# Bytes of a number, by the names that a trace has for dtypes.
_ITEM_BYTES = {
    "double": 8,
    "float": 4,
    "c10::Half": 2,
    "c10::BFloat16": 2,
    "signed char": 1,
    "unsigned char": 1,
    "c10::Float8_e4m3fn": 1,
    "c10::Float8_e5m2": 1,
}
_WITH_BIAS_FIRST = ("addmm", "addmv", "baddbmm")
_MATRIX_FIRST = ("mv", "addmv")
# Without a matrix of weights they multiply activations, as eager attention and RoPE do.
_ACTIVATION_PRODUCTS = ("matmul", "bmm", "baddbmm", "einsum")


@dataclass(frozen=True)
class Product:
    """A matrix product with weights.

    Attributes:
        rows: M.
        inputs: K.
        outputs: N.
        weight_bytes: 0 where the dtype is not known.
    """

    rows: int
    inputs: int
    outputs: int
    weight_bytes: int

    def __str__(self) -> str:
        return f"{self.rows} x {self.inputs} -> {self.outputs}"


def plain_name(operator: str) -> str:
    """`add` of "aten::add_", `to_copy` of "aten::_to_copy"."""
    name = operator.rsplit("::", 1)[-1]
    return name if name.startswith("__") else name.strip("_")


def is_product(operator: str) -> bool:
    """Whether an operator or a GPU kernel multiplies matrices, attention not counted."""
    name = operator.lower()
    if any(word in name for word in _ATTENTION_WORDS):
        return False
    return plain_name(name) in _PRODUCT_NAMES or any(word in name for word in _PRODUCT_WORDS)


def read_product(operator: str, dims: Sequence[Any], dtypes: Sequence[str]) -> Product | None:
    """The product that an operator computes.

    Args:
        operator: its name.
        dims: the shape of each of its inputs; a list of shapes for a list of tensors.
        dtypes: the dtype of each of its inputs, as a trace names it.

    Returns:
        The product; None where no weights [N, K] or [K, N] are among the inputs, as in attention.
    """
    if not is_product(operator):
        return None
    name = plain_name(operator)
    tensors = [(shape, dtype) for shape, dtype in zip(dims, dtypes, strict=True) if shape]
    if name in _WITH_BIAS_FIRST:
        tensors = tensors[1:]
    if name in _MATRIX_FIRST:
        tensors = tensors[1::-1]
    if not tensors or isinstance(tensors[0][0][0], list):
        return None
    shape = tensors[0][0]
    inputs = shape[-1]
    for weight, dtype in tensors[1:]:
        # the first that fits: behind it may stand the tensor that the result goes to
        if len(weight) == 2 and inputs in weight:
            size = prod(weight)
            weight_bytes = size * _ITEM_BYTES.get(dtype, 0)
            return Product(prod(shape[:-1]), inputs, size // inputs, weight_bytes)
    return None


def operator_group(operator: str, product: Product | None, lm_heads: Sequence[int]) -> str:
    """The group of an operator.

    Args:
        operator: its name, with a namespace.
        product: what it multiplies, see `read_product`.
        lm_heads: the sizes of vocabularies: products with so many outputs are LM heads.

    Returns:
        One of GROUPS; OTHER for what is not known.
    """
    name = plain_name(operator)
    if product is not None:
        return LM_HEAD if product.outputs in lm_heads else PRODUCTS
    if name in _ACTIVATION_PRODUCTS or any(word in name for word in _ATTENTION_WORDS):
        return ATTENTION
    if is_product(operator):  # with weights of a layout of their own
        return PRODUCTS
    if name in _CHOICE_NAMES:
        return CHOICE
    if name in _ELEMENTWISE_NAMES:
        return ELEMENTWISE
    if name in _COPY_NAMES:
        return COPIES
    return OTHER


def kernel_group(kernel: str) -> str:
    """The group of a GPU kernel that no operator launched, as those of a captured graph."""
    name = kernel.lower()
    if any(word in name for word in _ATTENTION_WORDS):
        return ATTENTION
    if is_product(name):
        return PRODUCTS
    for word, group in _KERNEL_WORDS:
        if word in name:
            return group
    return OTHER
