"""The losses of the steps since they were last looked at."""

import math

import torch
from accelerate import Accelerator
from torch import Tensor

from spartan_planner.errors import TrainingError
from spartan_planner.training.position import Position


class LossWindow:
    """Holds losses on the device, which need not wait for them, until they are settled.

    Args:
        accelerator: over whose processes losses are averaged.
    """

    def __init__(self, accelerator: Accelerator) -> None:
        self.last_loss = math.nan
        self._accelerator = accelerator
        self._parts: list[Tensor] = []
        self._steps: list[Tensor] = []

    @property
    def status(self) -> str:
        """The loss last known, in words."""
        return "" if math.isnan(self.last_loss) else f"loss {self.last_loss:.3f}"

    def add_part(self, loss: Tensor) -> int:
        """Take the loss of a part of a batch; return how many parts the step has so far."""
        self._parts.append(loss.detach().double())
        return len(self._parts)

    def end_step(self) -> None:
        """Make the parts since the last step one step."""
        self._steps.append(torch.stack(self._parts).mean())
        self._parts = []

    def settle(self, position: Position) -> Position:
        """Return the position with the losses of all steps since the last call.

        Args:
            position: after these steps.

        Raises:
            TrainingError: a loss is not finite.
        """
        if not self._steps:
            return position
        means: Tensor = self._accelerator.reduce(torch.stack(self._steps), "mean")
        first = position.step - len(self._steps) + 1
        self._steps = []
        for i, loss in enumerate(means.tolist()):
            if not math.isfinite(loss):
                raise TrainingError(
                    f"the loss became {loss} in step {first + i}; lower the learning rate"
                )
            position, self.last_loss = position.with_loss(loss), loss
        return position
