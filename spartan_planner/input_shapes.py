"""Shapes of example inputs, as users write them; needs no torch."""

from spartan_planner.errors import UsageError


def parse_shapes(text: str) -> tuple[tuple[int, ...], ...]:
    """Return the shapes that ``1,3,224,224`` stands for; several are split by ``;``.

    Raises:
        UsageError: the text is not a list of positive numbers.
    """
    try:
        shapes = tuple(tuple(int(size) for size in part.split(",")) for part in text.split(";"))
    except ValueError:
        shapes = ()
    if not shapes or any(size < 1 for shape in shapes for size in shape):
        raise UsageError(
            f"input shape {text!r} is not understood; write positive sizes with commas, "
            "such as 1,3,224,224"
        )
    return shapes
