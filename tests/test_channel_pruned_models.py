"""Models whose channels were pruned, and masked: `lower` makes them physically smaller."""

import copy

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from model_zoo import import_models
from torch import nn

from benchmarks.lowered_equality import settle_normalisations
from spartan_planner.export import export_onnx
from spartan_planner.lowering.files import lower_file
from spartan_planner.model_names import load_model

SIDE = 64

RELATIVE_ERROR = 1e-4
"""Of the largest output: float32 sums in another order, through a hundred layers."""

RESPONSE = 1e-3
"""Of outputs to another input: were it less, equal outputs would say nothing."""

MODELS = {
    # Squeeze and excitation: what is constant stays so only where it is zero.
    "torchvision:mobilenet_v3_small": True,
    # Residual additions.
    "torchvision:resnet18": True,
    # Concatenation, split and shuffle, behind which every second channel is another one: what is
    # dead in front of a depthwise convolution is found dead behind it.
    "torchvision:shufflenet_v2_x0_5": False,
}
"""Whether depthwise convolutions are pruned too, by model."""


def prune_every_second_channel(model: nn.Module, prunes_depthwise: bool) -> None:
    """Zero every second output of convolutions, and its normalisation."""
    with torch.no_grad():
        of_depthwise = False
        for module in model.modules():
            if isinstance(module, nn.Conv2d):
                of_depthwise = module.groups > 1
            if not isinstance(module, nn.Conv2d | nn.BatchNorm2d):
                continue
            if of_depthwise and not prunes_depthwise:
                continue
            module.weight[::2] = 0
            if module.bias is not None:
                module.bias[::2] = 0


def halved(module: nn.Conv2d | nn.Linear, is_first: bool, is_hidden: bool) -> tuple[int, ...]:
    """The shape of a weight in the model of half the width; images and classes stay as many."""
    outputs, inputs, *kernel = module.weight.shape
    keeps_inputs = is_first or inputs == 1
    keeps_outputs = isinstance(module, nn.Linear)
    return (
        outputs if keeps_outputs else outputs // 2,
        inputs if keeps_inputs or is_hidden else inputs // 2,
        *kernel,
    )


def num_varying_inputs(model: nn.Module, images: torch.Tensor) -> dict[str, int]:
    """How many channels that each layer reads are not the same figure everywhere.

    Activations are such that no channel dies by chance, and zero stays zero.
    """
    copied, found = copy.deepcopy(model), {}
    for module in copied.modules():
        for name, child in module.named_children():
            if isinstance(child, nn.ReLU):
                setattr(module, name, nn.LeakyReLU(0.5))

    def note(name):
        def hook(_, inputs):
            source = inputs[0].transpose(0, 1).flatten(1)
            found[f"{name}.weight"] = int((source != source[:, :1]).any(dim=1).sum())

        return hook

    for name, module in copied.named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.register_forward_pre_hook(note(name))
    with torch.no_grad():
        copied(images)
    return found


def with_varying(module: nn.Conv2d | nn.Linear, num_inputs: int) -> tuple[int, ...]:
    """The shape of a weight without zero rows, and without inputs that do not vary."""
    if isinstance(module, nn.Conv2d) and module.groups > 1:
        return (num_inputs, 1, *module.weight.shape[2:])
    num_outputs = int(module.weight.flatten(1).any(dim=1).sum())
    return (num_outputs, num_inputs, *module.weight.shape[2:])


@pytest.mark.parametrize(("name", "prunes_depthwise"), MODELS.items())
def test_file_is_that_of_the_model_of_half_the_width(tmp_path, name, prunes_depthwise):
    import_models(name.partition(":")[0])
    model = load_model(name).eval()
    images = torch.randn(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    settle_normalisations(model, (images,))
    prune_every_second_channel(model, prunes_depthwise)
    varying = num_varying_inputs(model, images)
    masked = export_onnx(model, None, images[:1], tmp_path / "masked.onnx")
    lowered = lower_file(masked.path, tmp_path / "lowered.onnx")
    shapes = {item.name: tuple(item.dims) for item in onnx.load(lowered.path).graph.initializer}
    layers = {
        f"{key}.weight": module
        for key, module in model.named_modules()
        if isinstance(module, nn.Conv2d | nn.Linear)
    }
    linear = [key for key, module in layers.items() if isinstance(module, nn.Linear)]
    expected = {
        # A linear layer behind another reads all of it, none of which was pruned.
        key: halved(module, key == next(iter(layers)), key in linear[1:])
        for key, module in layers.items()
    }
    if not prunes_depthwise:
        expected = {key: with_varying(layers[key], varying[key]) for key in layers}
    assert {key: shapes.get(key) for key in expected} == expected
    one, other = (run(masked.path, images[index : index + 1]) for index in (0, 1))
    scale = np.max(np.abs(one))
    assert np.max(np.abs(one - other)) > RESPONSE * scale
    assert np.max(np.abs(one - run(lowered.path, images[:1]))) <= RELATIVE_ERROR * scale


def run(path, images: torch.Tensor) -> np.ndarray:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {session.get_inputs()[0].name: images.numpy()})
    return found
