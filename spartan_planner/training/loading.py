"""Batches that depend on the seed and on the place in training, and on nothing else.

A run that is resumed in the middle of a pass then sees the batches that it would have seen,
whatever was loaded ahead when it stopped, and however many processes load data.
"""

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from accelerate import skip_first_batches
from torch.utils.data import DataLoader, Dataset

from spartan_planner.training.datasets import Examples

_NUM_NUMPY_SEEDS = 2**32


class SeededExamples(Dataset[Any]):
    """A data set whose random transformations are drawn from (seed, epoch, first index of a batch).

    Args:
        examples: a data set; its transformations may use the generators of torch (CPU), NumPy and
            Python, which are left as they were found.
        seed: at least 0.
    """

    def __init__(self, examples: Examples, seed: int) -> None:
        self.examples = examples
        self.seed = seed
        self.epoch = 0

    def __len__(self) -> int:
        return len(self.examples)  # type: ignore[arg-type]

    def __getitem__(self, index: int) -> Any:  # noqa: ANN401 - whatever an example is
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[Any]:
        """Return the examples of one batch; called by torch's loader."""
        with _drawn_from(self.seed, self.epoch, indices[0]):
            together = getattr(self.examples, "__getitems__", None)
            return together(indices) if together else [self.examples[i] for i in indices]


def make_loader(
    examples: Examples, batch_size: int, seed: int, num_workers: int = 0, shuffle: bool = True
) -> DataLoader[Any]:
    """Return a loader of :class:`SeededExamples`, for Accelerate to prepare.

    Args:
        examples: a data set with a length.
        batch_size: examples of one batch, over all processes.
        seed: of order and transformations.
        num_workers: processes that load data; 0 loads in this one.
        shuffle: whether each pass has an order of its own.
    """
    return DataLoader(
        SeededExamples(examples, seed),
        batch_size,
        shuffle=shuffle,
        num_workers=num_workers,
        # Of its own: torch draws from it at the start of every pass.
        generator=torch.Generator().manual_seed(seed),
    )


def batches_from(loader: DataLoader[Any], epoch: int, num_batches: int) -> DataLoader[Any]:
    """Return what is left of pass ``epoch`` after ``num_batches`` batches.

    Args:
        loader: from :func:`make_loader`, prepared by Accelerate with its seedable sampler.
        epoch: from 0.
        num_batches: batches of this process that are done.
    """
    loader.dataset.epoch = epoch  # type: ignore[attr-defined]
    loader.set_epoch(epoch)  # type: ignore[attr-defined]
    rest: DataLoader[Any] = skip_first_batches(loader, num_batches) if num_batches else loader
    return rest


@contextmanager
def _drawn_from(*entropy: int) -> Iterator[None]:
    """Seed the generators of torch (CPU), NumPy and Python, and put them back afterwards."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002 - theirs
    seed = int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0])
    random.seed(seed)
    np.random.seed(seed % _NUM_NUMPY_SEEDS)  # noqa: NPY002 - transformations use it
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002 - as above
        torch.set_rng_state(states[2])
