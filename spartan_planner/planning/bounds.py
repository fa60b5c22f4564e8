"""Bounds per layer, by name pattern: what a plan may do with which layers."""

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from cost_models import LayerWorkload, Layout
from spartan_planner.errors import UsageError


@dataclass(frozen=True)
class Bound:
    """What may become of the layers whose names match a pattern.

    Attributes:
        pattern: shell pattern of layer names, such as ``head.*``.
        keep_dense: whether they stay dense.
        min_density: least share of their elements to keep.
        layouts: layouts they may have; empty for all.
    """

    pattern: str
    keep_dense: bool = False
    min_density: float = 0.0
    layouts: tuple[Layout, ...] = ()

    def __post_init__(self) -> None:
        """Refuse densities that are none."""
        if not 0 <= self.min_density <= 1:
            raise UsageError(
                f"minimum density {self.min_density * 100:g}% of {self.pattern!r} must lie between "
                "0% and 100%"
            )


@dataclass(frozen=True)
class LayerBound:
    """All bounds on one layer together.

    Attributes:
        keep_dense: whether it stays dense.
        min_density: least share of its elements to keep.
        allowed: layouts it may have; ``None`` for all.
    """

    keep_dense: bool
    min_density: float
    allowed: frozenset[Layout] | None

    def allows(self, layout: Layout) -> bool:
        """Whether the layer may have that layout."""
        return not self.keep_dense and (self.allowed is None or layout in self.allowed)


def bounds_of(layer: str, bounds: Sequence[Bound]) -> LayerBound:
    """Join the bounds that apply to a layer: the strictest counts."""
    mine = [bound for bound in bounds if fnmatchcase(layer, bound.pattern)]
    sets = [frozenset(bound.layouts) for bound in mine if bound.layouts]
    return LayerBound(
        any(bound.keep_dense for bound in mine),
        max((bound.min_density for bound in mine), default=0.0),
        frozenset.intersection(*sets) if sets else None,
    )


def require_matches(layers: Sequence[LayerWorkload], bounds: Sequence[Bound]) -> None:
    """Refuse a pattern that no layer matches: most likely it is misspelt.

    Raises:
        UsageError: naming the pattern and some layers.
    """
    names = [layer.name for layer in layers]
    for bound in bounds:
        if not any(fnmatchcase(name, bound.pattern) for name in names):
            some = ", ".join(names[:5])
            raise UsageError(
                f"no layer matches {bound.pattern!r}; the layers are {some}"
                f"{' and others' if len(names) > 5 else ''}"
            )


def parse_bounds(
    keep_dense: Sequence[str], min_density: Sequence[str], layouts: Sequence[str]
) -> tuple[Bound, ...]:
    """Read bounds as users write them.

    Args:
        keep_dense: patterns.
        min_density: ``PATTERN=SHARE``, the share as ``50%`` or ``0.5``.
        layouts: ``PATTERN=LAYOUT``, several layouts split by commas.

    Raises:
        UsageError: a text of another form.
        UnknownNameError: a layout that is not known.
    """
    return (
        *(Bound(pattern, keep_dense=True) for pattern in keep_dense),
        *(
            Bound(pattern, min_density=_share(text, pattern))
            for pattern, text in map(_split, min_density)
        ),
        *(
            Bound(pattern, layouts=tuple(Layout.parse(item.strip()) for item in text.split(",")))
            for pattern, text in map(_split, layouts)
        ),
    )


def _split(text: str) -> tuple[str, str]:
    pattern, separator, value = text.rpartition("=")
    if not separator or not pattern:
        raise UsageError(f"{text!r} is not understood; write PATTERN=VALUE, such as 'head*=50%'")
    return pattern, value


def _share(text: str, pattern: str) -> float:
    try:
        return float(text[:-1]) / 100 if text.endswith("%") else float(text)
    except ValueError as error:
        raise UsageError(
            f"minimum density {text!r} of {pattern!r} is not understood; write a share such as "
            "50% or 0.5"
        ) from error
