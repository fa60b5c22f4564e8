"""Closures: losses that an optimizer evaluates itself, inside ``step(closure)``."""

from collections.abc import Callable
from typing import Any

from torch.optim import Optimizer

from spartan_planner.errors import TrainingError

Closure = Callable[[], Any]
"""Runs the model and ``backward()``, and returns the loss."""
Arguments = tuple[tuple[Any, ...], dict[str, Any]]
"""Those of ``Optimizer.step``, positional (the optimizer first) and by name."""


def closure_in(arguments: Arguments) -> Closure | None:
    """Return the closure among the arguments of a step, ``None`` where there is none."""
    positional, named = arguments
    given = positional[1] if len(positional) > 1 else named.get("closure")
    return given if callable(given) else None


def with_closure(arguments: Arguments, closure: Closure) -> Arguments:
    """Return the arguments of a step with another closure in the place of the one they have."""
    positional, named = arguments
    if len(positional) > 1:
        return (positional[0], closure, *positional[2:]), named
    return positional, {**named, "closure": closure}


class SparseClosure:
    """A closure that runs under sparse weights, and leaves gradients of the latent ones.

    The first evaluation of a step sees the weights that the last step left, so an optimizer that
    evaluates once does what ``backward()`` and ``step()`` do.  Before every further one, at the
    latent weights that the optimizer tries, blocks are selected anew.

    Args:
        closure: the loop's own.
        sparsify: makes the parameters, which hold latent weights that are tried, sparse.
        turn_gradients: turns gradients, and puts the latent weights back.
    """

    def __init__(
        self, closure: Closure, sparsify: Callable[[], None], turn_gradients: Callable[[], None]
    ) -> None:
        self.num_evaluations = 0
        self._closure = closure
        self._sparsify = sparsify
        self._turn_gradients = turn_gradients

    def __call__(self) -> Any:  # noqa: ANN401 - whatever the loop's closure returns
        """Evaluate once."""
        self._sparsify()
        self.num_evaluations += 1
        loss = self._closure()
        self._turn_gradients()
        return loss

    def require_evaluated(self, optimizer: Optimizer) -> None:
        """Refuse a step that was taken without the closure: on sparse weights.

        Raises:
            TrainingError: it was never called.
        """
        if not self.num_evaluations:
            raise TrainingError(
                f"{type(optimizer).__name__} took a step without calling the closure that it was "
                "given; call backward() and step() without arguments"
            )
