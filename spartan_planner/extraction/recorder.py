"""Watches the operations of one forward pass."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from spartan_planner.extraction.calls import Call, Role
from spartan_planner.extraction.provenance import Placement, Provenance, Source
from spartan_planner.extraction.readers import reader_of

_FREE = frozenset(
    {
        "_efficientzerotensor",
        "_to_copy",
        "_unsafe_view",
        "arange",
        "clone",
        "contiguous",
        "copy_",
        "device",
        "empty",
        "empty_like",
        "empty_strided",
        "full",
        "full_like",
        "lift_fresh",
        "new_empty",
        "new_empty_strided",
        "new_full",
        "new_ones",
        "new_zeros",
        "ones",
        "ones_like",
        "scalar_tensor",
        "zeros",
        "zeros_like",
    }
)
"""Data movement: it computes nothing, and runtimes leave most of it out."""


@dataclass(frozen=True)
class Use:
    """One call that consumed a weight.

    Attributes:
        role: the weight as it was used.
        source: the parameter behind it.
        placement: where the used elements lie.
        macs: multiply-adds of the whole batch.
    """

    role: Role
    source: Source
    placement: Placement
    macs: int


@dataclass
class Recorder(TorchDispatchMode):
    """Collects, while it is active, what each operation did.

    Attributes:
        model: whose parameters are told from activations.
        uses: calls that consumed a weight, by the parameter's name.
        products: multiply-adds of each call without a weight, by name and shapes of the factors.
        unpriced: elements written by each call of any other operation, by its name.
    """

    model: nn.Module
    uses: dict[str, list[Use]] = field(default_factory=dict)
    products: dict[tuple[str, tuple[int, ...], tuple[int, ...]], list[int]] = field(
        default_factory=dict
    )
    unpriced: dict[str, list[int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._provenance = Provenance(self.model)

    def __torch_dispatch__(  # type: ignore[no-untyped-def]
        self,
        func,  # noqa: ANN001
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> object:
        kwargs = kwargs or {}
        reader = reader_of(func)
        if reader is None and func is not torch.ops.prim.device.default:
            # In inference mode composite operations arrive whole.
            with self:
                output = func.decompose(*args, **kwargs)
            if output is not NotImplemented:
                return output
        output = _run(func, args, kwargs)
        calls = reader(args, output) if reader else ()
        if not calls:
            self._note_unpriced(func, output)
        consumed = [self._record(func, call) for call in calls]
        if not any(consumed):
            self._provenance.follow(func, (args, kwargs), output)
        return output

    def _record(self, func: Any, call: Call) -> bool:  # noqa: ANN401
        """Note a call; return whether it consumed a weight."""
        if not all(factor.numel() for factor in call.factors):
            return False  # such as an expert that no token chose
        weight = self._weight_of(call)
        if weight is None:
            left, right = (tuple(factor.shape) for factor in call.factors)
            name = func.overloadpacket.__name__
            self.products.setdefault((name, left, right), []).append(call.macs)
            return False
        role, source = weight
        use = Use(role, source, Placement.of(role.weight), call.macs)
        self.uses.setdefault(source.parameter, []).append(use)
        return True

    def _weight_of(self, call: Call) -> tuple[Role, Source] | None:
        """Return the factor that is a weight: one that stems from a parameter, times another.

        Where neither depends on an input, the right one is if it is used just as it is stored
        (learned queries times a weight); else the product is a step of computing a weight (one
        made of two factors, the norm of one).
        """
        sources = [self._provenance.source(factor) for factor in call.factors]
        for index in (1, 0):
            source, other = sources[index], sources[1 - index]
            role = call.role(index) if source and source.parameter else None
            if role is None or source is None:
                continue
            if other is None:
                return role, source
            if index == 1 and Placement.of(role.weight) == source.placement:
                return role, source
        return None

    def _note_unpriced(self, func: Any, output: object) -> None:  # noqa: ANN401
        name = func.overloadpacket.__name__
        if func.is_view or name in _FREE:
            return
        outputs = output if isinstance(output, tuple | list) else (output,)
        size = sum(item.numel() for item in outputs[:1] if isinstance(item, Tensor))
        self.unpriced.setdefault(name, []).append(size)


def _run(func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> object:  # noqa: ANN401
    if func.overloadpacket.__name__ == "_grouped_mm" and args[0].is_meta and args[1].dim() == 3:
        # The kernel for the meta device refuses all types but bfloat16; the real ones do not.
        return args[0].new_empty((*args[0].shape[:-1], args[1].shape[-1]))
    return func(*args, **kwargs)
