"""The callback inside the real Trainer of Lightning: short runs of a tiny network on the CPU."""

import pytest
import torch
from networks import tiny_network, tiny_plan
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from spartan_planner.errors import TrainingError
from spartan_planner.export.kept_sizes import kept_sizes
from spartan_planner.model_names import import_models
from spartan_planner.training.lightning_callback import SparsifierCallback

lightning = import_models("pytorch_lightning")

NUM_EPOCHS, NUM_BATCHES = 3, 4
NUM_STEPS = NUM_EPOCHS * NUM_BATCHES

pytestmark = [
    # Lightning's own use of torch's tree of containers.
    pytest.mark.filterwarnings(r"ignore:`isinstance\(treespec, LeafSpec\)`:FutureWarning"),
    # Advice on how many processes should load data.
    pytest.mark.filterwarnings("ignore:.*does not have many workers:UserWarning"),
    # Lightning's advice to log more often than a pass is long is about passes longer than these.
    pytest.mark.filterwarnings("ignore:.*smaller than the logging interval:UserWarning"),
]


class Classifier(lightning.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.network = tiny_network()

    def training_step(self, batch, _):
        images, labels = batch
        return nn.functional.cross_entropy(self.network(images), labels)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9)


def loader() -> DataLoader:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(8 * NUM_BATCHES, 1, 8, 8, generator=generator)
    return DataLoader(TensorDataset(images, torch.arange(8 * NUM_BATCHES) % 10), 8)


def trainer_for(folder, callbacks=(), **more):
    wish = {"max_epochs": NUM_EPOCHS, "enable_checkpointing": False, **more}
    return lightning.Trainer(
        accelerator="cpu",
        logger=False,
        default_root_dir=str(folder),
        callbacks=list(callbacks),
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=2,
        **wish,
    )


@pytest.mark.parametrize("method", [None, "dual_averaging"])
def test_a_run_of_the_trainer_ends_within_the_budget(tmp_path, method):
    module = Classifier()
    plan = tiny_plan(module.network)
    callback = SparsifierCallback(plan, method, submodule="network")
    trainer = trainer_for(tmp_path, [callback])
    trainer.fit(module, loader())
    assert callback.sparsifier.num_steps_done == NUM_STEPS
    assert callback.sparsifier.method.name == (method or "spartan")
    assert plan.predicted("flops", kept_sizes(module.network, plan)) <= plan.budget.asked
    figures = trainer.logged_metrics
    assert figures["sparsifier/step"] == NUM_STEPS
    assert float(figures["sparsifier/cost/flops"]) <= plan.budget.asked


def test_accumulated_batches_are_one_step(tmp_path):
    module = Classifier()
    callback = SparsifierCallback(tiny_plan(module.network), submodule="network")
    trainer_for(tmp_path, [callback], accumulate_grad_batches=2).fit(module, loader())
    assert callback.sparsifier.num_steps_done == callback.sparsifier.total_steps == NUM_STEPS // 2


def test_a_resumed_run_goes_on_as_if_nothing_had_happened(tmp_path):
    plan = tiny_plan(tiny_network())
    whole, stopped, resumed = Classifier(), Classifier(), Classifier()
    trainer_for(tmp_path, [SparsifierCallback(plan, submodule="network")]).fit(whole, loader())

    class StopAfterFirstPass(lightning.Callback):
        def on_train_epoch_end(self, trainer, pl_module):
            del pl_module
            trainer.save_checkpoint(tmp_path / "first.ckpt")
            trainer.should_stop = True

    first = SparsifierCallback(plan, submodule="network")
    # Stopped early, so the mask is cut to the budget with a warning; the checkpoint is from before.
    with pytest.warns(UserWarning, match="training ended after"):
        trainer_for(tmp_path, [first, StopAfterFirstPass()]).fit(stopped, loader())
    again = SparsifierCallback(plan, submodule="network")
    trainer_for(tmp_path, [again]).fit(
        resumed, loader(), ckpt_path=str(tmp_path / "first.ckpt"), weights_only=True
    )
    assert again.sparsifier.num_steps_done == NUM_STEPS
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name


def test_an_endless_run_is_refused(tmp_path):
    module = Classifier()
    callback = SparsifierCallback(tiny_plan(module.network), submodule="network")
    with pytest.raises(TrainingError, match="max_epochs"):
        trainer_for(tmp_path, [callback], max_epochs=-1).fit(module, loader())


def test_a_part_that_is_not_there(tmp_path):
    module = Classifier()
    callback = SparsifierCallback(tiny_plan(module.network), submodule="backbone")
    with pytest.raises(TrainingError, match=r"no part 'backbone'.*network"):
        trainer_for(tmp_path, [callback]).fit(module, loader())
