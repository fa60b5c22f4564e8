"""The built-in example: a residual network for scikit-learn's handwritten digits."""

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import TensorDataset

MODEL_NAME = "spartan_planner.digits:digits_resnet"
INPUT_SHAPE = (1, 1, 8, 8)
NUM_CLASSES = 10
WIDTH = 192
NUM_TEST_IMAGES = 360
_LARGEST_PIXEL = 16.0


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with batch normalisation around a shortcut (He et al., 2016)."""

    def __init__(self, num_inputs: int, num_outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(num_inputs, num_outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(num_outputs)
        self.conv2 = nn.Conv2d(num_outputs, num_outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(num_outputs)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or num_inputs != num_outputs:
            self.shortcut = nn.Sequential(
                nn.Conv2d(num_inputs, num_outputs, 1, stride, bias=False),
                nn.BatchNorm2d(num_outputs),
            )

    def forward(self, images: Tensor) -> Tensor:
        """Map ``[N, in, H, W]`` to ``[N, out, H / stride, W / stride]``."""
        hidden = torch.relu(self.bn1(self.conv1(images)))
        return torch.relu(self.bn2(self.conv2(hidden)) + self.shortcut(images))


class DigitsResNet(nn.Module):
    """A stem, six residual blocks at 8x8 and two at 4x4, and a linear classifier."""

    def __init__(self, width: int = WIDTH) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(1, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()
        )
        strides = (1, 1, 1, 1, 1, 1, 2, 1)
        self.blocks = nn.Sequential(*(ResidualBlock(width, width, stride) for stride in strides))
        self.classifier = nn.Linear(width, NUM_CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        """Map images ``[N, 1, 8, 8]`` to logits ``[N, 10]``."""
        features: Tensor = self.blocks(self.stem(images))
        logits: Tensor = self.classifier(features.mean((2, 3)))
        return logits


def digits_resnet() -> DigitsResNet:
    """Build the network with random weights."""
    return DigitsResNet()


def digits_data() -> tuple[TensorDataset, TensorDataset]:
    """Return training and test sets of images ``[N, 1, 8, 8]`` in [0, 1] with labels.

    1797 images in all; the last 360, in the order of the data set, are the test set.
    """
    bunch = load_digits()
    images = torch.tensor(bunch.images, dtype=torch.float32).unsqueeze(1) / _LARGEST_PIXEL
    labels = torch.tensor(bunch.target, dtype=torch.int64)
    split = len(labels) - NUM_TEST_IMAGES
    return (
        TensorDataset(images[:split], labels[:split]),
        TensorDataset(images[split:], labels[split:]),
    )
