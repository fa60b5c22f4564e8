"""A network pruned with torch's own tools, exported, and made faster by `spartan-planner lower`.

    python examples/pruned_elsewhere/prune_and_lower.py [FOLDER]

Half of all filters are pruned by their norm with torch.nn.utils.prune, which only sets them to
zero: the exported file is as slow as before.  Lowering takes the dead channels out.
"""

import sys
from pathlib import Path

import torch
from torch import nn
from torch.nn.utils import prune

from spartan_planner.lowering.files import LoweredFile, lower_file


class Residual(nn.Module):
    """Two convolutions with batch normalization, and a way around them."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.first_norm = nn.BatchNorm2d(width)
        self.second = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.second_norm = nn.BatchNorm2d(width)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Return features of the same shape."""
        inner = torch.relu(self.first_norm(self.first(features)))
        return torch.relu(features + self.second_norm(self.second(inner)))


def network(width: int = 128, num_blocks: int = 3) -> nn.Module:
    """A small residual network for images of 32 x 32 and ten classes, with random weights."""
    torch.manual_seed(0)
    layers = nn.Sequential(
        nn.Conv2d(3, width, 3, padding=1),
        *(Residual(width) for _ in range(num_blocks)),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(width, 10),
    )
    for module in layers.modules():
        if isinstance(module, nn.BatchNorm2d):
            # As after training: what is left of a pruned channel is a figure of its own.
            nn.init.uniform_(module.bias, -0.5, 0.5)
    return layers.eval()


def prune_filters(model: nn.Module, share: float = 0.5) -> None:
    """Set the filters of least norm of every block's first convolution to zero."""
    for module in model.modules():
        if isinstance(module, Residual):
            prune.ln_structured(module.first, "weight", amount=share, n=2, dim=0)
            prune.remove(module.first, "weight")


def export(model: nn.Module, path: Path) -> None:
    """Write the pruned model as ONNX, by torch alone."""
    example = torch.randn(2, 3, 32, 32)
    batch = torch.export.Dim("batch", min=1)
    program = torch.onnx.export(
        model, (example,), dynamo=True, dynamic_shapes=({0: batch},), verbose=False
    )
    assert program is not None
    program.save(str(path))


def main(folder: Path) -> LoweredFile:
    """Prune, export, lower."""
    folder.mkdir(parents=True, exist_ok=True)
    model = network()
    prune_filters(model)
    export(model, folder / "pruned.onnx")
    return lower_file(folder / "pruned.onnx", folder / "lowered.onnx")


if __name__ == "__main__":
    made = Path(sys.argv[1] if len(sys.argv) > 1 else "pruned-elsewhere")
    lowered = main(made)
    gone = sum(lowered.report.removed.num_channels.values())
    print(f"{gone} dead channels removed, outputs differ by at most {lowered.max_abs_error:.2g}")
    print(f"compare: spartan-planner verify {lowered.path} --dense {made}/pruned.onnx")
