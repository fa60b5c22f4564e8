"""ResNet-50 (He et al. 2015, the variant that strides in its 3x3 convolutions) as a workload.

Written down from the architecture, independently of any framework: 54 weights in the order in which
torchvision names them, at 224 x 224 and batch 1, 25,557,032 parameters in all.
"""

import hashlib
import math
from collections.abc import Iterator

from cost_models import LayerShape, LayerWorkload, Workload

SIDE = 224
NUM_CLASSES = 1000
# Width of the 3x3 convolutions, number of blocks, stride of the first block.
STAGES = ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2))
EXPANSION = 4


def resnet50_workload() -> Workload:
    """Return the workload of one image; normalisation and biases are parameters outside layers."""
    layers = tuple(_layers())
    parameters = [item for layer in layers for item in _parameters(layer)]
    lines = [f"{name} {shape}" for name, shape in parameters]
    return Workload(
        schema_version=2,
        model="resnet50",
        fingerprint=hashlib.sha256("\n".join(lines).encode()).hexdigest(),
        num_parameters=sum(math.prod(shape) for _, shape in parameters),
        layers=layers,
    )


def _layers() -> Iterator[LayerWorkload]:
    yield _convolution("conv1.weight", 64, 3, 7, SIDE, 2)
    side, channels = SIDE // 4, 64
    for stage, (width, num_blocks, first_stride) in enumerate(STAGES, start=1):
        for block in range(num_blocks):
            stride = first_stride if block == 0 else 1
            name, out = f"layer{stage}.{block}", EXPANSION * width
            yield _convolution(f"{name}.conv1.weight", width, channels, 1, side)
            yield _convolution(f"{name}.conv2.weight", width, width, 3, side, stride)
            yield _convolution(f"{name}.conv3.weight", out, width, 1, side // stride)
            if block == 0:
                yield _convolution(f"{name}.downsample.0.weight", out, channels, 1, side, stride)
            side, channels = side // stride, out
    shape = LayerShape("linear", (NUM_CLASSES, channels), (1, channels), has_bias=True)
    yield LayerWorkload("fc.weight", shape, positions=1)


def _convolution(
    name: str, outputs: int, inputs: int, kernel: int, side: int, stride: int = 1
) -> LayerWorkload:
    shape = LayerShape(
        op="conv2d",
        weight_shape=(outputs, inputs, kernel, kernel),
        input_shape=(1, inputs, side, side),
        stride=(stride, stride),
        padding=(kernel // 2, kernel // 2),
        dilation=(1, 1),
    )
    return LayerWorkload(name, shape, positions=(side // stride) ** 2)


def _parameters(layer: LayerWorkload) -> list[tuple[str, tuple[int, ...]]]:
    """The parameters of a layer and of what follows it: its bias or its normalisation."""
    shape = layer.shape.weight_shape
    if layer.shape.op == "linear":
        return [(layer.name, shape), ("fc.bias", shape[:1])]
    norm = layer.name.removesuffix(".weight").replace("conv", "bn")
    norm = norm.replace("downsample.0", "downsample.1")
    return [(layer.name, shape), (f"{norm}.weight", shape[:1]), (f"{norm}.bias", shape[:1])]
