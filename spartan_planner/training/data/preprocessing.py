"""How an image becomes the input of a model: size, augmentation, normalisation."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from cost_models.documents import document
from spartan_planner.model_names import import_models

_LARGEST_BYTE = 255.0
_PADDING_SHARE = 8
"""A random crop is taken from the image with an eighth of its size added on every side."""
_TEST_CROP_SHARE = 7 / 8
"""Share of the shorter side that is tested where training looks at random parts: 224 of 256."""

Transform = Callable[[Any], Tensor]
"""A tensor ``[C, H, W]`` of bytes or floats, or an image of Pillow's, to floats ``[C, H, W]``."""


@document
@dataclass(frozen=True)
class Preprocessing:
    """How images are prepared.

    Attributes:
        size: side of the square images that the model sees; ``None`` leaves their size alone.
        crop: what training sees of an image: ``none``, what testing sees; ``padded``, a random
            square of the image with zeros around it; ``resized``, a random part of 8 to 100 % of
            its area, resized (testing then sees the middle seven eighths).
        flip: whether training mirrors half of the images from left to right.
        rand_augment: whether training distorts them by RandAugment's two random operations
            (Cubuk et al., 2020).
        mean: of each channel, of pixels in [0, 1], subtracted; empty: not normalised.
        std: of each channel, divided by.
    """

    size: int | None = None
    crop: Literal["none", "padded", "resized"] = "none"
    flip: bool = False
    rand_augment: bool = False
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        """Refuse what cannot be done to an image."""
        if self.size is not None and self.size < 1:
            raise ValueError("size must be at least 1")
        if self.crop != "none" and self.size is None:
            raise ValueError(f"crop {self.crop} needs a size")
        if len(self.mean) != len(self.std):
            raise ValueError("mean and std must name equally many channels")
        if any(figure <= 0 for figure in self.std):
            raise ValueError("std must be positive")

    @property
    def num_channels(self) -> int | None:
        """Channels of the images, where the normalisation says."""
        return len(self.mean) or None


IMAGENET = Preprocessing(
    size=224,
    crop="resized",
    flip=True,
    mean=(0.485, 0.456, 0.406),
    std=(0.229, 0.224, 0.225),
)
"""What is usual for photographs of any size, and what folders of images get by default."""


def transform_of(preprocessing: Preprocessing | None, is_training: bool) -> Transform:
    """Return what makes an input of an image; without a preprocessing, pixels in [0, 1].

    Raises:
        ModelError: torchvision is needed and not installed.
    """
    if preprocessing is None:
        return unit_pixels
    v2 = import_models("torchvision.transforms.v2")
    steps = [*_geometry(v2, preprocessing, is_training)]
    if is_training and preprocessing.rand_augment:
        steps.append(v2.RandAugment())
    steps += [v2.ToImage(), v2.ToDtype(torch.float32, scale=True)]
    if preprocessing.mean:
        steps.append(v2.Normalize(preprocessing.mean, preprocessing.std))
    transform: Transform = v2.Compose([*steps, v2.ToPureTensor()])
    return transform


def _geometry(v2: Any, wish: Preprocessing, is_training: bool) -> list[Any]:  # noqa: ANN401
    flip = [v2.RandomHorizontalFlip()] if is_training and wish.flip else []
    if wish.size is None:
        return flip
    if is_training and wish.crop == "resized":
        return [v2.RandomResizedCrop(wish.size, antialias=True), *flip]
    shorter_side = wish.size
    if wish.crop == "resized":
        shorter_side = round(wish.size / _TEST_CROP_SHARE)
    steps = [v2.Resize(shorter_side, antialias=True), v2.CenterCrop(wish.size)]
    if is_training and wish.crop == "padded":
        steps.append(v2.RandomCrop(wish.size, padding=max(1, wish.size // _PADDING_SHARE)))
    return [*steps, *flip]


def unit_pixels(image: Any) -> Tensor:  # noqa: ANN401 - a tensor or an image of Pillow's
    """Return floats ``[C, H, W]``: bytes as [0, 1], floats as they are."""
    if isinstance(image, Tensor):
        return image.float() / _LARGEST_BYTE if image.dtype == torch.uint8 else image.float()
    pixels = torch.from_numpy(np.array(image, dtype=np.uint8, ndmin=3))
    # Pillow's grey images have no channel axis; numpy put the new one first.
    channels_first = pixels if np.ndim(image) == 2 else pixels.permute(2, 0, 1)
    return channels_first.float() / _LARGEST_BYTE


def with_usual_mode(image: Any, num_channels: int | None) -> Any:  # noqa: ANN401 - Pillow's
    """Return an image of Pillow's in grey or colour: as asked for, else what it has."""
    modes = {1: "L", 3: "RGB"}
    wanted = modes.get(num_channels or 0, image.mode if image.mode in modes.values() else "RGB")
    return image if image.mode == wanted else image.convert(wanted)
