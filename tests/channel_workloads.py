"""Small workloads with channel groups, made by hand, and weights for them."""

from dataclasses import replace

import numpy as np
from builders import conv_shape, linear_shape, workload_of

from cost_models import (
    ActivationProduct,
    ChannelGroup,
    ChannelSlice,
    LayerWorkload,
    UnpricedOperation,
    Workload,
)

SIDE = 8


def units(num_units, size=1, start=0):
    """So many units of so many neighbouring entries each."""
    return tuple(
        tuple(range(start + unit * size, start + (unit + 1) * size)) for unit in range(num_units)
    )


def part(tensor, dim, indices, role=None):
    """A slice; rows are outputs, columns inputs."""
    return ChannelSlice(tensor, dim, indices, role or ("output", "input")[dim])


def vectors(name, num_units, size=1):
    """What a batch normalisation holds of a channel: two parameters, two running statistics."""
    names = ("weight", "bias", "running_mean", "running_var")
    return tuple(part(f"{name}.{end}", 0, units(num_units, size), "vector") for end in names)


def with_groups(workload: Workload, *groups: ChannelGroup) -> Workload:
    return replace(workload, channel_groups=groups)


def conv(name, outputs, inputs, kernel=3, **changes):
    shape = conv_shape(outputs, inputs, kernel, SIDE, **changes)
    return LayerWorkload(name, shape, SIDE * SIDE)


def residual_network(width=32, inner=64) -> Workload:
    """A stem, two residual blocks on its channels, one of them depthwise inside, a classifier."""
    layers = (
        conv("stem", width, 3),
        conv("a1", inner, width),
        conv("a2", width, inner),
        conv("b1", inner, width, 1),
        conv("b2", inner, 1, 3, groups=inner),
        conv("b3", width, inner, 1),
        LayerWorkload("head", linear_shape(10, width * 4), 1),
    )
    stream = ChannelGroup(
        "stem",
        "channel",
        width,
        (
            part("stem", 0, units(width)),
            *vectors("stem_bn", width),
            part("a1", 1, units(width)),
            part("a2", 0, units(width)),
            part("b1", 1, units(width)),
            part("b3", 0, units(width)),
            # Flattened 2 x 2 places: four inputs of the classifier per channel.
            part("head", 1, units(width, 4)),
        ),
    )
    first = ChannelGroup(
        "a1",
        "channel",
        inner,
        (part("a1", 0, units(inner)), *vectors("a1_bn", inner), part("a2", 1, units(inner))),
    )
    second = ChannelGroup(
        "b1",
        "channel",
        inner,
        (part("b1", 0, units(inner)), part("b2", 0, units(inner)), part("b3", 1, units(inner))),
    )
    num_beside = 2 * (width + inner) + 10
    workload = workload_of(*layers, extra_parameters=num_beside, model="residual")
    workload = replace(workload, unpriced=(UnpricedOperation("max_pool2d", 1, 64 * width),))
    return with_groups(workload, stream, first, second)


def concatenation(first=16, second=32) -> Workload:
    """Two branches side by side, read by one convolution."""
    layers = (
        conv("left", first, 3),
        conv("right", second, 3),
        conv("joint", 32, first + second, 1),
    )
    groups = (
        ChannelGroup(
            "left",
            "channel",
            first,
            (part("left", 0, units(first)), part("joint", 1, units(first))),
        ),
        ChannelGroup(
            "right",
            "channel",
            second,
            (part("right", 0, units(second)), part("joint", 1, units(second, start=first))),
        ),
    )
    return with_groups(workload_of(*layers, model="concatenation"), *groups)


def attention(num_heads=4, head_size=8, tokens=6, num_blocks=2) -> Workload:
    """Blocks of attention, queries, keys and values in one packed matrix, with an MLP each."""
    width = num_heads * head_size
    layers, groups = [], []
    for block in range(num_blocks):
        names = [f"{block}.{name}" for name in ("qkv", "proj", "up", "down")]
        sizes = ((3 * width, width), (width, width), (4 * width, width), (width, 4 * width))
        layers += [
            LayerWorkload(name, linear_shape(*size, tokens=(tokens,)), tokens)
            for name, size in zip(names, sizes, strict=True)
        ]
        qkv, proj, up, down = names
        packed = tuple(
            tuple(
                place * width + head * head_size + row
                for place in range(3)
                for row in range(head_size)
            )
            for head in range(num_heads)
        )
        groups.append(
            ChannelGroup(
                qkv,
                "head",
                num_heads,
                (
                    part(qkv, 0, packed),
                    part(f"{qkv}.bias", 0, packed, "vector"),
                    part(proj, 1, units(num_heads, head_size)),
                ),
            )
        )
        groups.append(
            ChannelGroup(
                up,
                "channel",
                4 * width,
                (part(up, 0, units(4 * width)), part(down, 1, units(4 * width))),
            )
        )
    scores = (1, num_heads, tokens, head_size), (1, num_heads, head_size, tokens)
    mixed = (1, num_heads, tokens, tokens), (1, num_heads, tokens, head_size)
    macs = num_blocks * num_heads * tokens * tokens * head_size
    workload = workload_of(*layers, extra_parameters=num_blocks * 3 * width, model="attention")
    products = tuple(
        ActivationProduct("matmul", left, right, num_blocks, macs)
        for left, right in (scores, mixed)
    )
    return with_groups(replace(workload, products=products), *groups)


def weights_of(workload: Workload, seed=0) -> dict[str, np.ndarray]:
    """Random weights whose channels differ in size, as those of trained networks do."""
    random = np.random.default_rng(seed)
    arrays = {}
    for layer in workload.layers:
        shape = layer.shape.weight_shape
        array = random.standard_normal(shape)
        for axis in range(2):
            scale = random.lognormal(0, 0.5, shape[axis])
            array *= scale.reshape([-1 if a == axis else 1 for a in range(len(shape))])
        arrays[layer.name] = array.astype(np.float32)
    return arrays
