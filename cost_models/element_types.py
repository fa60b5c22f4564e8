"""Element types of weights and the bytes that one element takes."""

from cost_models.errors import CostModelError

BYTES_PER_ELEMENT = {
    "float64": 8.0,
    "float32": 4.0,
    "float16": 2.0,
    "bfloat16": 2.0,
    "float8_e4m3fn": 1.0,
    "float8_e5m2": 1.0,
    "int64": 8.0,
    "int32": 4.0,
    "int16": 2.0,
    "int8": 1.0,
    "uint8": 1.0,
    "int4": 0.5,
    "uint4": 0.5,
}
"""By the name in a workload; ONNX packs two 4-bit elements into a byte."""


def bytes_per_element(dtype: str) -> float:
    """Return the bytes that one element of that type takes in a file and in memory.

    Raises:
        CostModelError: the type is not known.
    """
    if dtype not in BYTES_PER_ELEMENT:
        raise CostModelError(
            f"the size of element type {dtype!r} is not known; known are: "
            f"{', '.join(BYTES_PER_ELEMENT)}"
        )
    return BYTES_PER_ELEMENT[dtype]
