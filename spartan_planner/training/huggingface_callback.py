"""Training to a plan inside the ``Trainer`` of Hugging Face transformers."""

from pathlib import Path
from typing import Any

from torch import nn
from torch.optim import Optimizer

from spartan_planner.errors import TrainingError
from spartan_planner.planning import Plan
from spartan_planner.torchvision_operators import prepare_torchvision
from spartan_planner.training.callback_figures import logged_figures, planned_network
from spartan_planner.training.sparsifier import Sparsifier
from spartan_planner.training.state_files import read_state, write_state

prepare_torchvision()
from transformers import (  # noqa: E402 - it imports torchvision
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

_STATE = "sparsifier"
"""Name of the files beside the trainer's own in each of its checkpoints."""


class SparsifierCallback(TrainerCallback):  # type: ignore[misc]
    """Attaches a :class:`Sparsifier` for the length of ``trainer.train()``.

    The state of the sparsifier is kept in the trainer's checkpoints, and taken from there when
    training is resumed.  Its figures join what the trainer logs.

    Args:
        plan: what to prune.
        method: how; the plan's by default.
        submodule: name of the part of the model that the plan is for; the whole by default.

    Attributes:
        sparsifier: the one of the run; ``None`` before it.
    """

    def __init__(self, plan: Plan, method: str | None = None, submodule: str = "") -> None:
        self.plan = plan
        self.method = method
        self.submodule = submodule
        self.sparsifier: Sparsifier | None = None

    def add_to(self, trainer: Trainer) -> None:
        """Add it to a trainer before its loggers, so that TensorBoard and others get the figures.

        ``Trainer(callbacks=[...])`` adds it behind them: only the printed log and
        ``trainer.state.log_history`` then hold the figures.
        """
        trainer.callback_handler.callbacks.insert(0, self)

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: nn.Module | None = None,
        optimizer: Optimizer | None = None,
        **kwargs: Any,  # noqa: ANN401 - the trainer's
    ) -> None:
        """Attach the sparsifier; optimizer and number of steps are known now.

        Raises:
            TrainingError: the trainer would put back the best checkpoint, which may be denser than
                the plan allows, or the checkpoint that is resumed holds no sparsifier.
        """
        del control, kwargs
        assert model is not None
        assert optimizer is not None
        if args.load_best_model_at_end:
            raise TrainingError(
                "load_best_model_at_end would put back weights from before the budget was "
                "reached; leave it out, the last weights are the ones within the budget"
            )
        network = planned_network(model, self.submodule)
        self.sparsifier = Sparsifier(network, self.plan, optimizer, state.max_steps, self.method)
        if state.global_step:
            self.sparsifier.load_state_dict(read_state(_checkpoint(args, state), _STATE))

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,  # noqa: ANN401 - the trainer's
    ) -> None:
        """Add the sparsifier's figures to those that are logged."""
        del args, control, kwargs
        if self.sparsifier is None or logs is None:
            return
        figures = logged_figures(self.sparsifier.stats())
        logs.update(figures)
        state.log_history[-1].update(figures)

    def on_save(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,  # noqa: ANN401 - the trainer's
    ) -> None:
        """Write the sparsifier's state into the checkpoint that the trainer just wrote."""
        del control, kwargs
        if self.sparsifier is not None and state.is_world_process_zero:
            write_state(_checkpoint(args, state), _STATE, self.sparsifier.state_dict())

    def on_train_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,  # noqa: ANN401 - the trainer's
    ) -> None:
        """Finalize: the model keeps its sparse weights, within the budget."""
        del args, state, control, kwargs
        if self.sparsifier is not None:
            self.sparsifier.finalize()


def _checkpoint(args: TrainingArguments, state: TrainerState) -> Path:
    """The folder that the trainer names after the step; it must resume from its output folder."""
    return Path(args.output_dir) / f"checkpoint-{state.global_step}"
