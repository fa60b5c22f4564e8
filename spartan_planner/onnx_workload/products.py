"""Reading products of matrices: with a weight, or of two activations."""

import math
from collections.abc import Sequence
from dataclasses import replace

from onnx import NodeProto

from cost_models import LayerShape
from spartan_planner.onnx_workload.attributes import integer, operand, text
from spartan_planner.onnx_workload.shapes import Shape
from spartan_planner.onnx_workload.tracing import ShapedGraph, Weight
from spartan_planner.onnx_workload.uses import Product, Reading, WeightUse


def _name(node: NodeProto) -> str:
    return node.name or node.output[0]


def _transposed(shape: Shape) -> Shape:
    return (*shape[:-2], shape[-1], shape[-2])


def read_matmul(node: NodeProto, graph: ShapedGraph, left: int = 0, right: int = 1) -> Reading:
    """Read a product whose factors stand at the given operands, the weight on either side."""
    left_name, right_name = operand(node, left), operand(node, right)
    left_shape = _as_matrix(graph.shapes[left_name], is_left=True)
    right_shape = _as_matrix(graph.shapes[right_name], is_left=False)
    weight = graph.weight_behind(right_name)
    if weight is not None and left_name not in graph.settled:
        use = _linear(node, weight, _transposed(right_shape), left_shape, not weight.is_reordered)
        return (_with_bias(use, node, graph),)
    weight = graph.weight_behind(left_name)
    if weight is not None and right_name not in graph.settled:
        return (_linear(node, weight, left_shape, _transposed(right_shape), weight.is_reordered),)
    return (_product(node.op_type, left_shape, right_shape),)


def _as_matrix(shape: Shape, *, is_left: bool) -> Shape:
    if len(shape) != 1:
        return shape
    return (1, shape[0]) if is_left else (shape[0], 1)


def _linear(
    node: NodeProto,
    weight: Weight,
    weight_shape: Shape,
    input_shape: Shape,
    is_stored_transposed: bool,
) -> WeightUse:
    """A weight ``[..., out, in]`` applied to ``[..., m, in]``.

    With leading dimensions in the weight there are as many products, each with its own slice.
    """
    if weight_shape[-1] != input_shape[-1]:
        raise ValueError(
            f"{_name(node)!r} multiplies {weight_shape[-1]} by {input_shape[-1]} inputs"
        )
    num_slices = math.prod(weight_shape[:-2])
    batch = _broadcast(weight_shape[:-2], input_shape[:-2])
    if num_slices > 1:
        input_shape = (math.prod(batch) // num_slices, *input_shape[-2:])
    shape = LayerShape("linear", weight_shape[-2:], input_shape, dtype=weight.dtype)
    return WeightUse(
        _name(node),
        weight,
        shape,
        num_rows=math.prod(batch) * input_shape[-2] // num_slices,
        num_repeats=num_slices,
        is_stored_transposed=is_stored_transposed,
    )


def _broadcast(left: Shape, right: Shape) -> Shape:
    length = max(len(left), len(right))
    padded = [(1,) * (length - len(shape)) + shape for shape in (left, right)]
    if any(1 not in pair and pair[0] != pair[1] for pair in zip(*padded, strict=True)):
        raise ValueError(f"leading dimensions {left} and {right} do not fit")
    return tuple(max(pair) for pair in zip(*padded, strict=True))


def _with_bias(use: WeightUse, node: NodeProto, graph: ShapedGraph) -> WeightUse:
    """Count the addition of a constant row, where nothing else reads the product, as its bias."""
    output = node.output[0]
    readers = graph.readers.get(output, [])
    if len(readers) != 1 or readers[0].op_type != "Add" or output in graph.outputs:
        return use
    other = next((name for name in readers[0].input if name != output), "")
    shape = graph.shapes.get(other, ())
    num_outputs = use.shape.weight_shape[0]
    if other not in graph.settled or shape[-1:] != (num_outputs,) or math.prod(shape) > num_outputs:
        return use
    shape_with_bias = replace(use.shape, has_bias=True)
    return replace(use, shape=shape_with_bias, further_nodes=(_name(readers[0]),))


def _product(op: str, left_shape: Shape, right_shape: Shape) -> Product:
    if left_shape[-1] != right_shape[-2]:
        raise ValueError(f"{op} multiplies {left_shape} by {right_shape}")
    batch = _broadcast(left_shape[:-2], right_shape[:-2])
    macs = math.prod(batch) * left_shape[-2] * left_shape[-1] * right_shape[-1]
    return Product(op, left_shape, right_shape, macs)


def read_gemm(node: NodeProto, graph: ShapedGraph) -> Reading:
    """Read ``A' @ B' + C``, each factor transposed or not, the weight on either side."""
    left_name, right_name = operand(node, 0), operand(node, 1)
    is_left_turned, is_right_turned = (bool(integer(node, f"trans{side}", 0)) for side in "AB")
    left_shape, right_shape = graph.shapes[left_name], graph.shapes[right_name]
    left_shape = _transposed(left_shape) if is_left_turned else left_shape
    right_shape = _transposed(right_shape) if is_right_turned else right_shape
    weight = graph.weight_behind(right_name)
    if weight is not None and left_name not in graph.settled:
        turned = weight.is_reordered == is_right_turned
        use = _linear(node, weight, _transposed(right_shape), left_shape, turned)
        shape = replace(use.shape, has_bias=bool(operand(node, 2)))
        return (replace(use, shape=shape),)
    weight = graph.weight_behind(left_name)
    if weight is not None and right_name not in graph.settled:
        turned = weight.is_reordered != is_left_turned
        return (_linear(node, weight, left_shape, _transposed(right_shape), turned),)
    return (_product("Gemm", left_shape, right_shape),)


def read_einsum(node: NodeProto, graph: ShapedGraph) -> Reading:
    """Read a sum of products of two factors; others cannot be priced."""
    terms = _terms(text(node, "equation"), [graph.shapes[name] for name in node.input])
    if terms is None:
        return ()
    left, right, result = terms
    sizes = _sizes(zip((left, right), (graph.shapes[name] for name in node.input), strict=True))
    for weight_slot, (own, other) in enumerate(((left, right), (right, left))):
        weight = graph.weight_behind(node.input[weight_slot])
        if weight is not None and not set(own) & set(other) & set(result):
            return _einsum_with_weight(node, weight, own, other, result, sizes)
    macs = math.prod(sizes.values())
    shapes = [graph.shapes[name] for name in node.input]
    return (Product("Einsum", shapes[0], shapes[1], macs),)


def _terms(equation: str, shapes: Sequence[Shape]) -> tuple[str, str, str] | None:
    """The letters of two factors and the result; ``None`` for what is not a plain product."""
    equation = equation.replace(" ", "")
    sources, arrow, result = equation.partition("->")
    factors = sources.split(",")
    if len(factors) != 2 or len(shapes) != 2 or "." in equation:
        return None
    if not arrow:
        letters = "".join(factors)
        result = "".join(sorted(letter for letter in letters if letters.count(letter) == 1))
    plain = all(
        len(set(term)) == len(term) == len(shape)
        for term, shape in zip(factors, shapes, strict=True)
    )
    return (factors[0], factors[1], result) if plain else None


def _sizes(factors: "zip[tuple[str, Shape]]") -> dict[str, int]:
    sizes: dict[str, int] = {}
    for letters, shape in factors:
        for letter, size in zip(letters, shape, strict=True):
            if sizes.get(letter, size) not in (1, size) and size != 1:
                raise ValueError(f"Einsum uses {letter!r} for {sizes[letter]} and for {size}")
            sizes[letter] = max(size, sizes.get(letter, 1))
    return sizes


def _einsum_with_weight(
    node: NodeProto, weight: Weight, own: str, other: str, result: str, sizes: dict[str, int]
) -> Reading:
    """The letters of the weight alone are outputs, those it shares are summed: inputs."""
    outputs = [letter for letter in own if letter not in other]
    inputs = [letter for letter in own if letter in other]
    rows = [letter for letter in other if letter not in own]
    if any(letter not in result for letter in (*outputs, *rows)):
        return ()
    num_outputs, num_inputs, num_rows = (
        math.prod(sizes[letter] for letter in letters) for letters in (outputs, inputs, rows)
    )
    shape = LayerShape(
        "linear", (num_outputs, num_inputs), (num_rows, num_inputs), dtype=weight.dtype
    )
    is_stored_transposed = (own[: len(inputs)] == "".join(inputs)) != weight.is_reordered
    return (
        WeightUse(_name(node), weight, shape, num_rows, is_stored_transposed=is_stored_transposed),
    )


def read_attention(node: NodeProto, graph: ShapedGraph) -> Reading:
    """Read the two products of an attention: queries with keys, and weights with values."""
    query, key, value = (_split_heads(node, graph, slot) for slot in range(3))
    num_past = graph.shapes[operand(node, 4)][2] if operand(node, 4) else 0
    num_keys = key[2] + num_past
    scores = (*query[:3], num_keys)
    return (
        _product("Attention", query, (*query[:2], query[3], num_keys)),
        _product("Attention", scores, (*query[:2], num_keys, value[3])),
    )


def _split_heads(node: NodeProto, graph: ShapedGraph, slot: int) -> Shape:
    """``[batch, heads, length, size]``, also of an operand that keeps its heads side by side."""
    shape = graph.shapes[operand(node, slot)]
    if len(shape) == 4:
        return shape
    num_heads = integer(node, "q_num_heads" if slot == 0 else "kv_num_heads", 1)
    return (shape[0], num_heads, shape[1], shape[2] // num_heads)


def read_gather(node: NodeProto, graph: ShapedGraph) -> Reading:
    """Read a look-up in a table of rows as an embedding."""
    weight = graph.weight_behind(operand(node, 0))
    table, indices = graph.shapes[operand(node, 0)], graph.shapes[operand(node, 1)]
    if weight is None or len(table) != 2 or integer(node, "axis", 0) not in (0, -2):
        return ()
    shape = LayerShape("embedding", table, indices or (1,), dtype=weight.dtype)
    return (WeightUse(_name(node), weight, shape, math.prod(indices)),)
