"""The forward as one graph for every size, with our operators in the place of torch's.

The graph is exported with symbols for its sizes. Two of its operations are replaced: torch
multiplies few rows slower than memory allows (see linear.cpp), and its attention needs every key
once per query head (see attend.cpp).
"""

from typing import Any

import torch
from torch.export import Dim, ExportedProgram
from torch.fx import Graph, Node
from torch.utils._pytree import tree_map

from eagle_hf.compilation import operators
from eagle_hf.compilation.attention import DTYPES
from eagle_hf.compilation.forwards import ExportedForward

MOST_ROWS = 64  # B
MOST_TOKENS = 1024  # N
MOST_SLOTS = 1 << 20  # L, T

# Of the compiler that gets the graph.
SETTINGS: dict[str, Any] = {
    "aot_inductor.package_constants_in_so": False,
    # What is left beside the operators is small: a second thread costs more than it saves. Without
    # OpenMP a package is right for every number of threads.
    "cpp.threads": 1,
    # RoPE's cosines are computed once and not in every layer (8 of 12 ms of SmolLM2-135M).
    "realize_opcount_threshold": 4,
}

aten = torch.ops.aten
# How keys [B, g, L, D] become keys [B, h, L, D]: [B, g, 1, L, D], then [B, g, h / g, L, D].
RESHAPES = (aten.reshape.default, aten.view.default)
REPEATS = (aten.expand.default, aten.slice.Tensor, aten.unsqueeze.default)


def export_forward(forward: ExportedForward, inputs: Any) -> ExportedProgram:
    """Export a forward for every B, N, L and T.

    Args:
        forward: the forward.
        inputs: an example, in which none of the sizes is 1 and no two are equal.

    Raises:
        Exception: Whatever torch.export raises for a model that it cannot follow.
    """
    with torch.no_grad():
        program = torch.export.export(
            forward, tuple(inputs), dynamic_shapes=dynamic_shapes(inputs), strict=False
        )
    if operators.is_available():
        use_linear(program.graph)
    use_attend(program.graph)
    program.graph_module.recompile()
    return program


def dynamic_shapes(inputs: Any) -> tuple:
    """Which sizes of the inputs, a named tuple, change from call to call."""
    batch = Dim("batch", min=1, max=MOST_ROWS)
    tokens = Dim("tokens", min=1, max=MOST_TOKENS)
    sizes: dict[str, dict[int, Any]] = {
        "rows": {0: Dim("rows", min=1, max=MOST_ROWS * MOST_TOKENS)},
        "wanted": {0: Dim("wanted", min=1, max=MOST_TOKENS)},
        "mask": {0: batch, 2: tokens, 3: Dim("length", min=1, max=MOST_SLOTS)},
        "buffers": {0: batch, 2: Dim("capacity", min=1, max=MOST_SLOTS)},
    }
    shapes = []
    for name, value in inputs._asdict().items():
        changing = sizes.get(name, {0: batch, 1: tokens})
        shapes.append(tree_map(lambda _, size=changing: size, value))
    return tuple(shapes)


def use_linear(graph: Graph) -> None:
    """Let `eagle_hf::linear` compute the linear layers that it can."""
    for node in graph.nodes:
        if node.target is aten.linear.default:
            x, weight = _operands(node, 2)
            dtypes = {x.meta["val"].dtype, weight.meta["val"].dtype}
            bias = node.args[2] if len(node.args) > 2 else None
        elif node.target is aten.mm.default:
            x, product = _operands(node, 2)
            weight = _int8_weight(product)
            dtypes = {x.meta["val"].dtype}
            bias = None
        else:
            continue
        if weight is not None and len(dtypes) == 1 and dtypes <= set(operators.DTYPES):
            node.args = (x, weight, bias)
            node.target = torch.ops.eagle_hf.linear.default
    graph.eliminate_dead_code()
    graph.lint()


def _int8_weight(factor: Node) -> Node | None:
    """The weight [N, K] in int8 of which `factor` is the transpose in the dtype of x, if it is.

    So torchao multiplies: x @ weight.T.to(x.dtype), scaled behind.
    """
    if factor.target is not aten.to.dtype:
        return None
    transposed = _operands(factor, 1)[0]
    if transposed.target is not aten.t.default or transposed.meta["val"].dtype != torch.int8:
        return None
    return _operands(transposed, 1)[0]


def use_attend(graph: Graph) -> None:
    """Let `eagle_hf::attend` compute attention over the keys as they lie in the cache."""
    for node in list(graph.nodes):
        if not _suits_attend(node):
            continue
        query, key, value, mask = _operands(node, 4)
        scale = node.kwargs.get("scale") or query.meta["val"].shape[-1] ** -0.5
        sources = _unrepeated(key), _unrepeated(value)
        if sources[0] is not key and sources[1] is not value:
            key, value = sources
        with graph.inserting_before(node):
            attend = torch.ops.eagle_hf.attend.default
            output = graph.call_function(attend, (query, key, value, mask, scale))
        output.meta = dict(node.meta)
        node.replace_all_uses_with(output)
        graph.erase_node(node)  # its dropout, of nothing, would keep it alive
    graph.eliminate_dead_code()


def _suits_attend(node: Node) -> bool:
    """Whether a node is an attention of the kind that `eagle_hf::attend` computes."""
    if node.target is not aten.scaled_dot_product_attention.default:
        return False
    if len(node.args) < 4 or node.args[3] is None or node.kwargs.get("is_causal"):
        return False
    query, key, value, mask = (operand.meta["val"] for operand in _operands(node, 4))
    is_plain = mask.dtype == torch.bool and mask.shape[1] == 1 and query.dtype in DTYPES
    has_one_width = key.shape[-1] == query.shape[-1] == value.shape[-1]
    return is_plain and has_one_width


def _unrepeated(keys: Node) -> Node:
    """The keys [B, g, L, D] of a cache behind those that were repeated to [B, h, L, D]."""
    if keys.target not in RESHAPES:
        return keys
    source = _operands(keys, 1)[0]
    while source.target in REPEATS and source.meta["val"].dim() == 5:
        parent = _operands(source, 1)[0]
        if source.target is aten.unsqueeze.default and source.args[1] == 2:
            return parent
        source = parent
    return keys


def _operands(node: Node, count: int) -> list[Node]:
    """The first arguments of a node, tensors that other nodes compute."""
    operands = []
    for argument in node.args[:count]:
        assert isinstance(argument, Node), f"{node} is given {argument} as an operand"
        operands.append(argument)
    return operands
