"""Training to a plan inside the ``Trainer`` of Lightning."""

import math
from typing import Any

from spartan_planner.errors import TrainingError
from spartan_planner.planning import Plan
from spartan_planner.torchvision_operators import prepare_torchvision
from spartan_planner.training.callback_figures import logged_figures, planned_network
from spartan_planner.training.sparsifier import Sparsifier
from spartan_planner.training.sparsifier_state import StateDict

prepare_torchvision()
import pytorch_lightning as lightning  # noqa: E402 - it imports torchvision


class SparsifierCallback(lightning.Callback):  # type: ignore[misc]
    """Attaches a :class:`Sparsifier` for the length of ``trainer.fit()``.

    The state of the sparsifier travels in Lightning's checkpoints and is taken from there when
    training is resumed by ``ckpt_path``.  Its figures are logged by the module.

    Args:
        plan: what to prune.
        method: how; the plan's by default.
        submodule: name of the part of the LightningModule that the plan is for, such as
            ``network``; the whole by default.
        optimizer_index: which of several optimizers owns the planned parameters.

    Attributes:
        sparsifier: the one of the run; ``None`` before it.
    """

    def __init__(
        self,
        plan: Plan,
        method: str | None = None,
        submodule: str = "",
        optimizer_index: int = 0,
    ) -> None:
        self.plan = plan
        self.method = method
        self.submodule = submodule
        self.optimizer_index = optimizer_index
        self.sparsifier: Sparsifier | None = None
        self._resumed: StateDict | None = None

    def on_train_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        """Attach the sparsifier; optimizer and number of steps are known now.

        Raises:
            TrainingError: the number of steps is not known.
        """
        total_steps = trainer.estimated_stepping_batches
        if not 0 < total_steps < math.inf:
            raise TrainingError(
                "the number of training steps is not known; give the Lightning trainer max_steps "
                "or max_epochs"
            )
        optimizer = trainer.optimizers[self.optimizer_index]
        self.sparsifier = Sparsifier(
            planned_network(pl_module, self.submodule),
            self.plan,
            optimizer,
            int(total_steps),
            self.method,
        )
        if self._resumed is not None:
            self.sparsifier.load_state_dict(self._resumed)
            self._resumed = None

    def on_train_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        *args: Any,  # noqa: ANN401 - the batch and what the module returned
    ) -> None:
        """Log the sparsifier's figures where the trainer logs at all."""
        del args
        if self.sparsifier is not None and (trainer.global_step % trainer.log_every_n_steps == 0):
            pl_module.log_dict(logged_figures(self.sparsifier.stats()))

    def on_train_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        """Finalize: the model keeps its sparse weights, within the budget."""
        del trainer, pl_module
        if self.sparsifier is not None:
            self.sparsifier.finalize()

    def state_dict(self) -> dict[str, Any]:
        """Return the sparsifier's state, for Lightning's checkpoint."""
        return dict(self.sparsifier.state_dict()) if self.sparsifier else {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep the state of a checkpoint until the optimizer exists."""
        if state_dict:
            self._resumed = StateDict(numbers=state_dict["numbers"], tensors=state_dict["tensors"])
