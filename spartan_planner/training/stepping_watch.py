"""Until the right optimizer takes its first step: is another one stepped, or none?"""

import weakref
from collections.abc import Sequence
from typing import Any

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_pre_hook

from spartan_planner.errors import TrainingError

PATIENCE = 10_000
"""Backward passes without a step after which a loop is told; more than anybody accumulates."""


class SteppingWatch:
    """Watches parameters until :meth:`remove`; costs nothing afterwards.

    Args:
        optimizer: the optimizer that is to be stepped.
        parameters: what it is to train.
    """

    def __init__(self, optimizer: Optimizer, parameters: Sequence[Tensor]) -> None:
        self._optimizer = weakref.ref(optimizer)
        self._ids = {id(parameter) for parameter in parameters}
        self._num_backward = 0
        watched = weakref.WeakMethod(self._on_step)
        self._handles: list[Any] = [
            register_optimizer_step_pre_hook(lambda stepped, *_: (watched() or _ignore)(stepped))
        ]
        trained = next((p for p in parameters if p.requires_grad), None)
        if trained is not None:
            register: Any = trained.register_post_accumulate_grad_hook
            self._handles.append(register(self._on_backward))

    def remove(self) -> None:
        """Stop watching."""
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def __del__(self) -> None:
        self.remove()

    def _on_step(self, stepped: Optimizer) -> None:
        owned = {id(p) for group in stepped.param_groups for p in group["params"]}
        if stepped is not self._optimizer() and self._ids & owned:
            raise TrainingError(
                f"another optimizer ({type(stepped).__name__}) than the sparsifier's is stepped on "
                "planned parameters; give the sparsifier the one whose step() the loop calls"
            )

    def _on_backward(self, _: Tensor) -> None:
        self._num_backward += 1
        if self._num_backward >= PATIENCE:
            raise TrainingError(
                f"{PATIENCE} backward passes went by without a step of the optimizer that the "
                "sparsifier was given; give it the one whose step() the training loop calls"
            )


def _ignore(_: Optimizer) -> None:
    """Do nothing."""
