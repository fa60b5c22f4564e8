"""Parameters and multiply-adds of every classification model against torchvision's own figures."""

import warnings

import pytest
import torch
from model_zoo import import_models

from spartan_planner.extraction import extract_workload
from spartan_planner.model_names import load_model

models = import_models("torchvision.models")

MAX_RELATIVE_DIFFERENCE = 0.01
"""The project's bar; torchvision prints thousandths of a GMAC."""

FURTHER_PARAMETERS = {
    # The auxiliary classifiers, which only training uses: two of 512 or 528 x 128 x 1 x 1 with
    # batch normalization, 2048 x 1024 and 1024 x 1000 with biases.  torchvision states the model
    # after it has removed them.
    "googlenet": (512 + 528) * 128 + 2 * (2 * 128 + 2048 * 1024 + 1024 + 1024 * 1000 + 1000),
}
ROUNDED_MACS = {
    # 40,476,448, printed with three decimals of a thousand million.
    "shufflenet_v2_x0_5": 0.040,
}


def figures():
    """Name, image size and torchvision's figures, each size once."""
    found = set()
    for name in models.list_models(module=models):
        for weights in models.get_model_weights(name):
            (size,) = set(weights.transforms().crop_size)
            found.add((name, size, weights.meta["num_params"], weights.meta["_ops"]))
    return sorted(found)


def build(name, size):
    if name.startswith("vit_") and size != 224:
        with torch.device("meta"):
            return models.get_model(name, weights=None, image_size=size)
    with warnings.catch_warnings():
        # GoogLeNet and Inception announce another initialization.
        warnings.filterwarnings("ignore", "The default weight initialization", FutureWarning)
        return load_model(f"torchvision:{name}", on_meta=True)


def test_every_model_is_in_the_table():
    assert len({name for name, *_ in figures()}) == len(models.list_models(module=models)) >= 80


@pytest.mark.parametrize(
    ("name", "size", "num_parameters", "giga_macs"),
    figures(),
    ids=lambda value: str(value) if isinstance(value, str | int) else "",
)
def test_figures(name, size, num_parameters, giga_macs):
    workload = extract_workload(build(name, size), torch.empty(1, 3, size, size), name)
    assert workload.num_parameters == num_parameters + FURTHER_PARAMETERS.get(name, 0)
    if name in ROUNDED_MACS:
        assert round(workload.macs / 1e9, 3) == giga_macs == ROUNDED_MACS[name]
    else:
        assert workload.macs / 1e9 == pytest.approx(giga_macs, rel=MAX_RELATIVE_DIFFERENCE)
