"""What modules say of their own sizes, brought up to date after channels were removed."""

from collections.abc import Iterable, Mapping

from torch import nn
from torch.nn.modules.conv import _ConvNd

HEAD_COUNTS = frozenset(
    {"heads", "n_head", "n_heads", "nhead", "num_attention_heads", "num_heads", "num_kv_heads"}
    | {"num_key_value_heads"}
)
"""Names under which modules keep their number of attention heads."""

WIDTHS = frozenset({"all_head_size", "attn_dim", "embed_dim", "inner_dim", "split_size"})
"""Names under which modules keep how wide all their heads are together."""

LAYER_SIZES = frozenset(
    {"embedding_dim", "groups", "in_channels", "in_features", "nf", "num_channels", "nx"}
    | {"num_features", "num_groups", "num_parameters", "out_channels", "out_features"}
)
"""Names under which layers keep the sizes of their own weight."""

SETTABLE = HEAD_COUNTS | WIDTHS | LAYER_SIZES
"""All that a removal may change."""


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


def head_sizes(
    module: nn.Module, num_units: int, num_kept: int, widths: Mapping[int, int]
) -> dict[str, int]:
    """Return what a module of attention should say of its heads once units are removed.

    Args:
        module: holds projections, or is one.
        num_units: units before; a unit may hold several heads.
        num_kept: units that are left.
        widths: sizes of the projections before, and after.
    """
    found: dict[str, int] = {}
    for name in sorted(set(vars(module))):
        value = getattr(module, name)
        if type(value) is not int:
            continue
        if name in HEAD_COUNTS and value % num_units == 0:
            found[name] = value // num_units * num_kept
        elif name in WIDTHS and value in widths:
            found[name] = widths[value]
    return found
