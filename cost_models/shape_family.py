"""Which shapes are of one kind and differ in their channels only."""

from cost_models.workload import LayerShape

Family = tuple[object, ...]


def family(shape: LayerShape) -> Family:
    """Return what relatives have in common: all but channels and bias.

    Of a grouped convolution also its groups, of a depthwise one that it is one.
    """
    is_depthwise = shape.groups > 1 and shape.weight_shape[1] == 1
    groups = 0 if is_depthwise else shape.groups
    if shape.is_convolution:
        place = shape.input_shape[:1] + shape.input_shape[2:]
    elif shape.op == "linear":
        place = shape.input_shape[:-1]
    else:
        place = shape.input_shape
    kernel = shape.weight_shape[2:]
    sliding = shape.stride, shape.padding, shape.dilation
    return shape.op, groups, kernel, place, *sliding, shape.dtype
