"""Operations that combine or normalise: elementwise, reductions, statistics, windows."""

import re
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from spartan_planner.channels.calls import Call
from spartan_planner.channels.layers import Labelled, held, held_all, merged, settled
from spartan_planner.channels.products import SPATIAL
from spartan_planner.channels.rearranging import Layers, Rule

JOINED = "it is joined with channels that are kept"


def elementwise(call: Call) -> list[Layers]:
    """Labels at one place are united, over all operands."""
    items = _operands(call)
    layers = merged(call.units, items, f"{JOINED} by {call.name.rstrip('_')}")
    return [layers for _ in tree_leaves(call.output)]


def _operands(call: Call) -> list[Labelled]:
    read = [value for value in tree_leaves(call.arguments) if isinstance(value, Tensor)]
    return [call.tensors.of(value) for value in read]


def reduced(call: Call) -> list[Layers]:
    """Sums, means, extremes: channels that are summed over stay together."""
    if "other" in call.arguments:  # the greater of two tensors
        return elementwise(call)
    source, dims = call.labelled("self"), _dims(call)
    layers = held_all(call.units, source.layers, dims, f"{call.name} goes over it")
    if not call.arguments.get("keepdim"):
        layers = tuple(_squeezed(layer, dims) for layer in layers)
    return [layers for _ in tree_leaves(call.output)]


def _squeezed(layer: Tensor, dims: list[int]) -> Tensor:
    return layer.reshape([size for at, size in enumerate(layer.shape) if at not in dims])


def _dims(call: Call) -> list[int]:
    num_dims = len(call.labelled("self").shape)
    dims = call.arguments.get("dim")
    if dims is None or dims == []:
        return list(range(num_dims))
    return [dim % num_dims for dim in ([dims] if isinstance(dims, int) else dims)]


def along(call: Call) -> list[Layers]:
    """Softmax and running sums: what lies along their dimension stays together."""
    source = call.labelled("self")
    return [held_all(call.units, source.layers, _dims(call), f"{call.name} goes over it")]


def windowed(call: Call) -> list[Layers]:
    """Pooling and resizing: channels pass, the dimensions of the window are kept."""
    source = call.tensors.of(next(iter(call.arguments.values())))
    found = re.search(r"([123])d", call.name)
    num_spatial = int(found.group(1)) if found else 2
    spatial = list(range(len(source.shape) - num_spatial, len(source.shape)))
    layers = held_all(call.units, source.layers, spatial, SPATIAL)
    return [layers for _ in tree_leaves(call.output)]


def batch_norm(call: Call) -> list[Layers]:
    """Statistics per channel: each element of its vectors goes with its channel."""
    source = call.labelled("input")
    shape = tuple(size if at == 1 else 1 for at, size in enumerate(source.shape))
    names = ("weight", "bias", "running_mean", "running_var")
    vectors = [item.reshaped(shape) for name in names if (item := call.optional(name))]
    layers = source.layers
    if call.arguments.get("training"):
        others = [at for at in range(len(shape)) if at != 1]
        layers = held_all(call.units, layers, others, "statistics go over it")
    passed = Labelled(source.shape, layers, source.is_fixed)
    return _with_statistics(call, merged(call.units, [passed, *vectors], JOINED))


def layer_norm(call: Call) -> list[Layers]:
    """Statistics over the last dimensions: a channel that goes would change all the others."""
    source = call.labelled("input")
    num_dims, num_normal = len(source.shape), len(call.arguments["normalized_shape"])
    last = list(range(num_dims - num_normal, num_dims))
    layers = held_all(call.units, source.layers, last, "a norm takes statistics over it")
    items = [Labelled(source.shape, layers, source.is_fixed)]
    items += [item for name in ("weight", "bias") if (item := call.optional(name))]
    return _with_statistics(call, merged(call.units, items, JOINED))


def group_norm(call: Call) -> list[Layers]:
    """Statistics over groups of channels: a group's channels stay together."""
    source, num_groups = call.labelled("input"), call.arguments["group"]
    reason = "a norm takes statistics over it"
    layers = held_all(call.units, source.layers, range(2, len(source.shape)), reason)
    for layer in settled(call.units, layers):
        if layer.shape[1] > 1:
            held(call.units, layer.reshape(layer.shape[0], num_groups, -1), [2], reason)
    shape = tuple(size if at == 1 else 1 for at, size in enumerate(source.shape))
    items = [Labelled(source.shape, settled(call.units, layers), source.is_fixed)]
    items += [item.reshaped(shape) for name in ("weight", "bias") if (item := call.optional(name))]
    return _with_statistics(call, merged(call.units, items, JOINED))


def _with_statistics(call: Call, layers: Layers) -> list[Layers]:
    """Return the layers of the output; statistics beside it are of no use to anyone."""
    num_outputs = len(tree_leaves(call.output))
    return [layers, *(() for _ in range(num_outputs - 1))]


def made(call: Call) -> list[Layers]:
    """New tensors of constants: no labels."""
    return [() for _ in tree_leaves(call.output)]


def is_pointwise(func: Any) -> bool:  # noqa: ANN401 - an operator's overload
    """Whether an operation goes element by element."""
    name = func.overloadpacket.__name__
    return torch.Tag.pointwise in func.tags or name.rstrip("_") in _POINTWISE


_POINTWISE = frozenset(
    {"celu", "copy", "elu", "fill", "hardsigmoid", "hardswish", "hardtanh", "leaky_relu"}
    | {"masked_fill", "mish", "relu6", "selu", "softplus", "where", "zero"}
)
"""Operations that go element by element though torch does not tag them so."""

_REDUCTIONS = """
    all amax amin any argmax argmin linalg_vector_norm logsumexp max mean median min prod std sum
    var var_mean
"""
_ALONG = "_softmax _log_softmax _safe_softmax softmax cumsum cumprod"
_WINDOWS = """
    _adaptive_avg_pool2d _adaptive_avg_pool3d adaptive_avg_pool2d adaptive_max_pool2d
    adaptive_max_pool3d avg_pool1d avg_pool2d avg_pool3d max_pool2d_with_indices
    max_pool3d_with_indices reflection_pad1d reflection_pad2d replication_pad1d replication_pad2d
    upsample_bicubic2d upsample_bilinear2d upsample_linear1d upsample_nearest1d upsample_nearest2d
    _upsample_bicubic2d_aa _upsample_bilinear2d_aa
"""
_BATCH_NORMS = """
    native_batch_norm _native_batch_norm_legit _native_batch_norm_legit_no_training
    _batch_norm_no_update _batch_norm_with_update cudnn_batch_norm
"""
_CONSTANTS = """
    arange empty empty_like empty_strided eye full full_like linspace new_empty new_empty_strided
    new_full new_ones new_zeros ones ones_like rand rand_like randn randn_like scalar_tensor
    tril_indices zeros zeros_like _efficientzerotensor _local_scalar_dense
"""

RULES: dict[str, Rule] = {
    **dict.fromkeys(_REDUCTIONS.split(), reduced),
    **dict.fromkeys(_ALONG.split(), along),
    **dict.fromkeys(_WINDOWS.split(), windowed),
    **dict.fromkeys(_BATCH_NORMS.split(), batch_norm),
    "native_layer_norm": layer_norm,
    "_fused_rms_norm": layer_norm,
    "native_group_norm": group_norm,
    **dict.fromkeys(_CONSTANTS.split(), made),
}
