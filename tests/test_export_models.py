"""Models of other kinds: several inputs and outputs, token ids, results that are objects."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from model_zoo import import_models
from torch import nn

from spartan_planner.errors import ExportError
from spartan_planner.export import Form, export_onnx, prune_one_shot
from spartan_planner.export.outputs import output_arrays, without_cache
from spartan_planner.onnx_sessions import open_session
from spartan_planner.plan_model import plan as make_plan

SMALL = {
    "bert": {
        "hidden_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "vocab_size": 50,
    },
    "gpt2": {
        "n_embd": 32,
        "n_layer": 1,
        "n_head": 2,
        "vocab_size": 50,
        "bos_token_id": 0,
        "eos_token_id": 0,
    },
}
MAX_ABS_ERROR = 1e-4
"""Outputs are of order one; float32 sums of some dozen terms in another order."""


def small_model(kind):
    transformers = import_models("transformers")
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(kind, **SMALL[kind])
    return transformers.AutoModel.from_config(config).eval()


def tokens():
    return torch.randint(50, (1, 6), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("kind", SMALL)
def test_hugging_face_models_export_with_token_ids(tmp_path, kind):
    model = small_model(kind)
    had_cache = model.config.use_cache
    report = export_onnx(model, None, tokens(), tmp_path / "m.onnx")
    assert report.max_abs_error <= MAX_ABS_ERROR
    assert model.config.use_cache == had_cache
    (facts,) = report.metadata.input_ranges
    assert (facts.dtype, facts.low, facts.high) == (
        "int64",
        float(tokens().min()),
        float(tokens().max()),
    )


def test_a_planned_transformer_is_written_sparse(tmp_path):
    model = small_model("bert")
    plan = make_plan(model, tokens(), budgets={"flops": "50%"}, layouts=["element"])
    prune_one_shot(model, plan)
    sparse = export_onnx(model, plan, tokens(), tmp_path / "s.onnx", form=Form.SPARSE)
    masked = export_onnx(model, plan, tokens(), tmp_path / "m.onnx")
    assert masked.metadata.form == "masked"
    assert all(layer.nodes for layer in masked.metadata.layers)
    ids = tokens().numpy()
    name = open_session(masked.path, {}).inference.get_inputs()[0].name
    left, right = (open_session(item.path, {name: ids}).run() for item in (sparse, masked))
    for one, other in zip(left, right, strict=True):
        np.testing.assert_array_equal(one, other)


class Several(nn.Module):
    """Two inputs, one of integers, and a tuple with a dictionary of outputs."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(10, 4)
        self.layer = nn.Linear(4, 3)

    def forward(self, values, ids):
        hidden = self.layer(values + self.embedding(ids))
        return hidden, {"sum": hidden.sum(1), "none": None}


def test_several_inputs_and_outputs(tmp_path):
    inputs = (torch.randn(1, 5, 4), torch.randint(10, (1, 5)))
    report = export_onnx(Several().eval(), None, inputs, tmp_path / "m.onnx")
    assert len(open_session(report.path, {}).inference.get_inputs()) == 2
    assert len(open_session(report.path, {}).inference.get_outputs()) == 2
    assert report.metadata.input_shapes == ((1, 5, 4), (1, 5))


@dataclass
class Result:
    first: torch.Tensor
    second: tuple[torch.Tensor, ...]


@pytest.mark.parametrize(
    ("result", "num_arrays"),
    [
        (torch.ones(2), 1),
        ([torch.ones(2), None], 1),
        ({"a": torch.ones(1), "b": (torch.ones(2), torch.ones(3))}, 3),
        (Result(torch.ones(1), (torch.ones(2), torch.ones(3))), 3),
    ],
)
def test_outputs_are_found_wherever_they_stand(result, num_arrays):
    assert len(output_arrays(result)) == num_arrays


def test_results_that_are_no_tensors_are_refused():
    with pytest.raises(ExportError, match="the model returns str; tensors are needed"):
        output_arrays("text")


def test_caches_are_left_out_and_put_back():
    class Config:
        use_cache = True

    model = nn.Linear(1, 1)
    model.config = Config()
    with without_cache(model):
        assert model.config.use_cache is False
    assert model.config.use_cache is True
