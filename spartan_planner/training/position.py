"""Where a training run stands."""

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Position:
    """Where a training run stands; between optimizer steps only.

    Attributes:
        epoch: passes over the data that are done.
        num_batches: batches of each process that are done in the current pass.
        step: optimizer steps done, those included that a gradient scaler skipped.
        epoch_loss: sum of the losses of the steps of the current pass.
        num_losses: how many these are.
        losses: mean loss of each pass that is done.
    """

    epoch: int = 0
    num_batches: int = 0
    step: int = 0
    epoch_loss: float = 0.0
    num_losses: int = 0
    losses: tuple[float, ...] = ()

    def after_step(self, num_batches: int) -> "Position":
        """Return the position after one more optimizer step, over so many batches."""
        return replace(self, num_batches=self.num_batches + num_batches, step=self.step + 1)

    def with_loss(self, loss: float) -> "Position":
        """Return the position with the loss of one more step of this pass."""
        return replace(self, epoch_loss=self.epoch_loss + loss, num_losses=self.num_losses + 1)

    def after_epoch(self) -> "Position":
        """Return the position at the start of the next pass."""
        mean = self.epoch_loss / self.num_losses
        return Position(self.epoch + 1, step=self.step, losses=(*self.losses, mean))
