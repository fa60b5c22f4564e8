"""How to read each operation that multiplies: arguments in, calls out."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from spartan_planner.extraction.calls import (
    Call,
    Convolution,
    GroupedProduct,
    LookUp,
    MatrixProduct,
)

Reader = Callable[[Sequence[Any], Any], Sequence[Call]]
"""From an operation's positional arguments and its output to the calls it stands for."""

_aten = torch.ops.aten


def reader_of(func: Any) -> Reader | None:  # noqa: ANN401 - an operator's overload
    """Return the reader of an operation, or None if it multiplies nothing that is known."""
    return _READERS.get(func.overloadpacket.__name__) if func.namespace == "aten" else None


def _read_convolution(args: Sequence[Any], output: Tensor) -> list[Call]:
    source, kernel, bias, stride, padding, dilation, transposed, _, groups = args[:9]
    has_bias = bias is not None
    call = Convolution(
        source, kernel, output, has_bias, stride, padding, dilation, bool(transposed), groups
    )
    return [call]


def _read_product(args: Sequence[Any], output: Tensor) -> list[Call]:  # noqa: ARG001
    return [MatrixProduct(args[0], args[1])]


def _read_added_product(args: Sequence[Any], output: Tensor) -> list[Call]:  # noqa: ARG001
    return [MatrixProduct(args[1], args[2], has_bias=True)]


def _read_vector_product(args: Sequence[Any], output: Tensor) -> list[Call]:  # noqa: ARG001
    return [MatrixProduct(args[0], args[1].unsqueeze(-1))]


def _read_added_vector_product(args: Sequence[Any], output: Tensor) -> list[Call]:  # noqa: ARG001
    return [MatrixProduct(args[1], args[2].unsqueeze(-1), has_bias=True)]


def _read_dot(args: Sequence[Any], output: Tensor) -> list[Call]:  # noqa: ARG001
    return [MatrixProduct(args[0].unsqueeze(0), args[1].unsqueeze(-1))]


def _read_grouped_product(args: Sequence[Any], output: Tensor) -> list[Call]:  # noqa: ARG001
    left, right = args[:2]
    # Its other forms run the groups along another dimension and are left among the unpriced.
    return [GroupedProduct(left, right)] if (left.dim(), right.dim()) == (2, 3) else []


def _read_attention(args: Sequence[Any], output: Any) -> list[Call]:  # noqa: ANN401, ARG001
    query, key, value = (_one_stack(item) for item in args[:3])
    # The scores exist only inside the kernel; an empty stand-in has their shape.
    scores = query.new_empty((*query.shape[:2], key.shape[1]), device="meta")
    return [MatrixProduct(query, key.mT), MatrixProduct(scores, value)]


def _one_stack(heads: Tensor) -> Tensor:
    return heads.flatten(0, -3)


def _read_embedding(args: Sequence[Any], output: Any) -> list[Call]:  # noqa: ANN401, ARG001
    return [LookUp(args[0], args[1])]


_READERS: dict[str, Reader] = {
    "convolution": _read_convolution,
    "_convolution": _read_convolution,  # what a traced module calls
    "mm": _read_product,
    "bmm": _read_product,
    "addmm": _read_added_product,
    "_addmm_activation": _read_added_product,
    "baddbmm": _read_added_product,
    "addbmm": _read_added_product,
    "mv": _read_vector_product,
    "addmv": _read_added_vector_product,
    "dot": _read_dot,
    "vdot": _read_dot,
    "_grouped_mm": _read_grouped_product,
    "embedding": _read_embedding,
    "_embedding_bag": _read_embedding,
    "_embedding_bag_forward_only": _read_embedding,
    "_scaled_dot_product_flash_attention": _read_attention,
    "_scaled_dot_product_flash_attention_for_cpu": _read_attention,
    "_scaled_dot_product_efficient_attention": _read_attention,
    "_scaled_dot_product_cudnn_attention": _read_attention,
    "_scaled_dot_product_fused_attention_overrideable": _read_attention,
}
"""Everything else reaches torch's dispatcher taken apart into these (linear, matmul, einsum,
lstm, multi-head attention, scaled dot product attention)."""
