"""The callback inside the real Trainer of transformers: short runs of a tiny network on the CPU."""

import copy

import pytest
import torch
from networks import tiny_network, tiny_plan
from torch import nn
from torch.utils.data import Dataset

from spartan_planner.errors import DocumentError, TrainingError
from spartan_planner.export.kept_sizes import kept_sizes
from spartan_planner.model_names import import_models
from spartan_planner.training.huggingface_callback import SparsifierCallback

transformers = import_models("transformers")

NUM_STEPS = 12

pytestmark = [
    # The trainer moves batches to pinned memory whether or not there is an accelerator.
    pytest.mark.filterwarnings("ignore:'pin_memory' argument is set as true:UserWarning"),
]


class Classifier(nn.Module):
    """A network as the Trainer wants it: it returns its loss."""

    def __init__(self) -> None:
        super().__init__()
        self.network = tiny_network()

    def forward(self, images, labels):
        logits = self.network(images)
        return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}


class Images(Dataset):
    def __len__(self):
        return 64

    def __getitem__(self, index):
        generator = torch.Generator().manual_seed(index)
        return {
            "images": torch.randn(1, 8, 8, generator=generator),
            "labels": index % 10,
        }


def trainer_for(model, folder, callbacks=(), **more):
    wish = {
        "output_dir": str(folder),
        "max_steps": NUM_STEPS,
        "per_device_train_batch_size": 8,
        "learning_rate": 1e-2,
        "logging_steps": 3,
        "save_strategy": "no",
        "report_to": "none",
        "use_cpu": True,
        "disable_tqdm": True,
        **more,
    }
    return transformers.Trainer(
        model,
        transformers.TrainingArguments(**wish),
        train_dataset=Images(),
        callbacks=list(callbacks),
    )


@pytest.fixture
def classifier():
    return Classifier()


@pytest.mark.parametrize("method", [None, "magnitude"])
def test_a_run_of_the_trainer_ends_within_the_budget(tmp_path, classifier, method):
    plan = tiny_plan(classifier.network)
    callback = SparsifierCallback(plan, method, submodule="network")
    trainer = trainer_for(classifier, tmp_path, [callback])
    trainer.train()
    assert callback.sparsifier.num_steps_done == NUM_STEPS
    assert callback.sparsifier.method.name == (method or "spartan")
    assert plan.predicted("flops", kept_sizes(classifier.network, plan)) <= plan.budget.asked
    # Finalized: another step changes weights that were pruned away.
    assert not trainer.optimizer.optimizer._optimizer_step_pre_hooks


def test_accumulated_batches_are_one_step(tmp_path, classifier):
    plan = tiny_plan(classifier.network)
    callback = SparsifierCallback(plan, submodule="network")
    trainer_for(classifier, tmp_path, [callback], gradient_accumulation_steps=2).train()
    assert callback.sparsifier.num_steps_done == callback.sparsifier.total_steps == NUM_STEPS


class Listener(transformers.TrainerCallback):
    """A logger: it sees what TensorBoard would see."""

    def __init__(self) -> None:
        self.seen = []

    def on_log(self, *_, logs, **__):
        self.seen.append(dict(logs))


def test_figures_are_logged(tmp_path, classifier):
    plan = tiny_plan(classifier.network)
    listener = Listener()
    trainer = trainer_for(classifier, tmp_path, [listener])
    SparsifierCallback(plan, submodule="network").add_to(trainer)
    trainer.train()
    with_loss = [logs for logs in listener.seen if "loss" in logs]
    assert [logs["sparsifier/step"] for logs in with_loss] == [3, 6, 9, 12]
    assert with_loss[-1]["sparsifier/cost/flops"] <= plan.budget.asked
    history = [logs for logs in trainer.state.log_history if "loss" in logs]
    assert [logs["sparsifier/density"] for logs in history] == [
        logs["sparsifier/density"] for logs in with_loss
    ]


def test_a_resumed_run_goes_on_as_if_nothing_had_happened(tmp_path):
    plan = tiny_plan(tiny_network())
    saving = {"save_strategy": "steps", "save_steps": 5}
    whole, resumed = Classifier(), Classifier()
    resumed.load_state_dict(copy.deepcopy(whole.state_dict()))
    callback = SparsifierCallback(plan, submodule="network")
    trainer_for(whole, tmp_path, [callback], **saving).train()
    again = SparsifierCallback(plan, submodule="network")
    trainer = trainer_for(resumed, tmp_path, [again], **saving)
    trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-5"))
    assert again.sparsifier.num_steps_done == NUM_STEPS
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name


def test_a_checkpoint_of_a_dense_run_cannot_be_resumed_sparse(tmp_path, classifier):
    saving = {"save_strategy": "steps", "save_steps": 5}
    trainer_for(classifier, tmp_path, **saving).train()
    callback = SparsifierCallback(tiny_plan(classifier.network), submodule="network")
    trainer = trainer_for(classifier, tmp_path, [callback], **saving)
    with pytest.raises(DocumentError, match="sparsifier"):
        trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-5"))


def test_the_best_checkpoint_is_not_put_back(tmp_path, classifier):
    callback = SparsifierCallback(tiny_plan(classifier.network), submodule="network")
    trainer = trainer_for(classifier, tmp_path, [callback])
    trainer.args.load_best_model_at_end = True
    with pytest.raises(TrainingError, match="load_best_model_at_end"):
        trainer.train()


def test_a_part_that_is_not_there(tmp_path, classifier):
    callback = SparsifierCallback(tiny_plan(classifier.network), submodule="backbone")
    with pytest.raises(TrainingError, match=r"no part 'backbone'.*network"):
        trainer_for(classifier, tmp_path, [callback]).train()
