"""Bounds that every figure of a device keeps."""

LEAST_FIGURE, GREATEST_FIGURE = 1e-12, 1e15
"""Beyond these no device has a figure in any unit used here, and sums of figures stay finite."""


def require_positive(owner: object, *names: str) -> None:
    """Refuse an attribute that is not a positive figure within the bounds.

    Raises:
        ValueError: naming the attribute.
    """
    for name in names:
        if not LEAST_FIGURE <= getattr(owner, name) <= GREATEST_FIGURE:
            raise ValueError(f"{name} must be positive and at most {GREATEST_FIGURE:g}")


def require_not_negative(owner: object, *names: str) -> None:
    """Refuse an attribute that is negative or beyond the bounds.

    Raises:
        ValueError: naming the attribute.
    """
    for name in names:
        if not 0 <= getattr(owner, name) <= GREATEST_FIGURE:
            raise ValueError(f"{name} must not be negative, and at most {GREATEST_FIGURE:g}")
