"""One forward pass, watched: which channels every operation ties together."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from spartan_planner.channels import normalising, products, rearranging
from spartan_planner.channels.calls import Call
from spartan_planner.channels.rearranging import Rule, unfollowed
from spartan_planner.channels.tensors import LabelledTensors

_RULES: dict[str, Rule] = {**rearranging.RULES, **products.RULES, **normalising.RULES}


class Follower(TorchDispatchMode):
    """Labels, while it is active, what each operation writes.

    Attributes:
        tensors: what is known by then; a further pass adds to it.
    """

    def __init__(self, tensors: LabelledTensors) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.tensors = tensors

    def __torch_dispatch__(  # type: ignore[no-untyped-def]
        self,
        func,  # noqa: ANN001
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> object:
        kwargs = kwargs or {}
        if func is torch.ops.prim.device.default:
            return func(*args, **kwargs)
        if not self._has_rule(func):
            with self:
                output = func.decompose(*args, **kwargs)
            if output is not NotImplemented:
                return output
        output = func(*args, **kwargs)
        self._follow(Call.of(func, tuple(args), kwargs, output, self.tensors))
        return output

    def _has_rule(self, func: Any) -> bool:  # noqa: ANN401 - an operator's overload
        return func.overloadpacket.__name__ in _RULES or normalising.is_pointwise(func)

    def _follow(self, call: Call) -> None:
        read = [item for item in tree_leaves(call.arguments) if isinstance(item, Tensor)]
        is_fixed = all(self.tensors.of(item).is_fixed for item in read)
        try:
            layers = self._rule(call)(call)
        except (LookupError, RuntimeError, ValueError):  # arguments that its rule does not foresee
            layers = unfollowed(call)
        written = tree_leaves(call.output)
        for tensor, kept in zip(written, layers, strict=True):
            if isinstance(tensor, Tensor):
                self.tensors.note(tensor, kept, is_fixed)

    def _rule(self, call: Call) -> Rule:
        rule = _RULES.get(call.name)
        if rule is not None:
            return rule
        return normalising.elementwise if normalising.is_pointwise(call.func) else unfollowed
