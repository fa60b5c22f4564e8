"""What modules say of their own sizes, brought up to date after channels were removed."""

import re
from collections.abc import Iterable, Mapping

from torch import nn
from torch.nn.modules.conv import _ConvNd

HEAD_COUNTS = frozenset(
    {"heads", "n_head", "n_heads", "nhead", "num_attention_heads", "num_heads", "num_kv_heads"}
    | {"num_key_value_heads"}
)
"""Names under which modules keep their number of attention heads."""

_WIDTHS = re.compile(
    r"(?!in_)(\w+_)?(chs?|channels|planes|width)|all_head_size|attn_dim|embed_dim|inner_dim|split_size"
)
"""Names under which modules keep how wide something inside them is."""

_LAYER_SIZES = frozenset(
    {"embedding_dim", "groups", "in_channels", "in_features", "nf", "num_channels", "nx"}
    | {"num_features", "num_groups", "num_parameters", "out_channels", "out_features"}
)
"""Names under which layers keep the sizes of their own weight."""


def is_settable(attribute: str) -> bool:
    """Whether a removal may change a size that modules keep under this name."""
    known = HEAD_COUNTS | _LAYER_SIZES
    return attribute in known or _WIDTHS.fullmatch(attribute) is not None


def layer_sizes(
    module: nn.Module, tensor: str, old_shape: tuple[int, ...], num_groups: int
) -> dict[str, int]:
    """Return the sizes that a layer states of itself, by what its tensor is now.

    Args:
        module: the layer, already smaller.
        tensor: name of its weight, or of its running mean.
        old_shape: of that tensor, before.
        num_groups: groups of a convolution that are left.
    """
    shape = tuple(getattr(module, tensor).shape)
    if isinstance(module, _ConvNd):
        return _convolution_sizes(module, shape, num_groups)
    if isinstance(module, nn.Linear):
        return {"in_features": shape[1], "out_features": shape[0]}
    if isinstance(module, nn.Embedding):
        return {"embedding_dim": shape[1]}
    if isinstance(module, nn.GroupNorm):
        groups = module.num_groups * shape[0] // old_shape[0]
        return {"num_channels": shape[0], "num_groups": groups}
    if isinstance(module, nn.PReLU):
        return {"num_parameters": shape[0]}
    if hasattr(module, "nf") and hasattr(module, "nx"):
        return {"nx": shape[0], "nf": shape[1]}
    return {"num_features": shape[0]} if hasattr(module, "num_features") else {}


def _convolution_sizes(module: _ConvNd, shape: tuple[int, ...], num_groups: int) -> dict[str, int]:
    if module.transposed:
        sizes = (shape[0], shape[1] * num_groups)
    else:
        sizes = (shape[1] * num_groups, shape[0])
    return {"in_channels": sizes[0], "out_channels": sizes[1], "groups": num_groups}


def kept_conv_groups(num_groups: int, num_rows: int, removed: Iterable[int]) -> int:
    """Return the groups of a convolution of which any output is left."""
    per_group = num_rows // num_groups
    lost = [0] * num_groups
    for row in removed:
        lost[row // per_group] += 1
    return sum(count < per_group for count in lost)


def inner_sizes(
    module: nn.Module, heads: tuple[int, int] | None, widths: Mapping[int, int]
) -> dict[str, int]:
    """Return what a module should say of the sizes inside it once units are removed.

    Args:
        module: holds layers that became smaller, or is one.
        heads: units of attention heads before, and after; None of channels.
        widths: sizes of the layers before, and after.
    """
    found: dict[str, int] = {}
    for name in sorted(vars(module)):
        value = getattr(module, name)
        if type(value) is not int:
            continue
        if heads and name in HEAD_COUNTS and value % heads[0] == 0:
            found[name] = value // heads[0] * heads[1]
        elif _WIDTHS.fullmatch(name) and value in widths:
            found[name] = widths[value]
    return found
