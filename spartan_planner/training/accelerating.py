"""Hugging Face Accelerate as this project uses it."""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from accelerate import Accelerator, DistributedType
from accelerate.state import AcceleratorState, GradientState
from accelerate.utils import (
    DataLoaderConfiguration,
    ProjectConfiguration,
    is_tensorboard_available,
    is_wandb_available,
    parse_flag_from_env,
)
from torch import nn

from spartan_planner.errors import TrainingError
from spartan_planner.training.processes import has_only_cpus
from spartan_planner.training.settings import Recording, TrainingSettings

_NUM_NUMPY_SEEDS = 2**32
_REFUSED = (
    DistributedType.FSDP,
    DistributedType.DEEPSPEED,
    DistributedType.MEGATRON_LM,
    DistributedType.XLA,
)
"""Ways to spread a model that are untried; FSDP2 is used without Accelerate's (sharded_model)."""


def start_accelerator(settings: TrainingSettings, recording: Recording | None) -> Accelerator:
    """Return an accelerator for one run, and seed the generators of this process.

    Raises:
        TrainingError: the settings do not fit the device or the number of processes, or a
            tracker's package is missing.
    """
    _require_trackers(recording)
    _require_no_plugin()
    # Settings of an earlier run in this Python process would be in the way of this one's; the
    # processes' connection stays.
    AcceleratorState._reset_state()
    GradientState._reset_state()
    folder = recording.folder if recording else None
    try:
        accelerator = Accelerator(
            cpu=has_only_cpus(),
            mixed_precision=settings.mixed_precision,
            gradient_accumulation_steps=settings.num_accumulation_steps,
            dataloader_config=DataLoaderConfiguration(
                split_batches=True, use_seedable_sampler=True, data_seed=settings.seed
            ),
            log_with=list(recording.trackers) if recording and recording.trackers else None,
            project_config=ProjectConfiguration(
                project_dir=folder, logging_dir=folder / "tensorboard" if folder else None
            ),
        )
    except ValueError as error:
        raise TrainingError(f"training cannot start as asked: {error}") from error
    _require_supported(settings, accelerator)
    _seed_generators(settings.seed + accelerator.process_index)
    return accelerator


@contextmanager
def given_back(model: nn.Module) -> Iterator[None]:
    """Leave the model where it was, without what Accelerate put on it for mixed precision."""
    device = next(model.parameters()).device
    own = {name: model.__dict__[name] for name in ("forward",) if name in model.__dict__}
    try:
        yield
    finally:
        for name in ("forward", "_original_forward"):
            model.__dict__.pop(name, None)
        model.__dict__.update(own)
        model.to(device)


def _require_trackers(recording: Recording | None) -> None:
    available = {"tensorboard": is_tensorboard_available, "wandb": is_wandb_available}
    for name in recording.trackers if recording else ():
        if not available[name]():
            raise TrainingError(
                f"tracker {name} needs a package that is missing; pip install "
                "'spartan-planner[trackers]'"
            )


def _require_no_plugin() -> None:
    """Refuse Accelerate's FSDP plugin, of either version; on CPUs Accelerate would ignore it."""
    if parse_flag_from_env("ACCELERATE_USE_FSDP"):
        raise TrainingError(
            "Accelerate's FSDP plugin (--use_fsdp, or fsdp_config in its configuration) is not "
            "supported, because it cuts weights without regard to a plan's blocks; launch plain "
            "processes (--multi_gpu, --multi_cpu or torchrun) and give train --fsdp, which shards "
            "by FSDP2"
        )


def _require_supported(settings: TrainingSettings, accelerator: Accelerator) -> None:
    if settings.mixed_precision != "no" and not accelerator.native_amp:
        raise TrainingError(
            f"{settings.mixed_precision} cannot be trained on this {accelerator.device.type}; use "
            "bf16 or no mixed precision"
        )
    if accelerator.distributed_type in _REFUSED:
        raise TrainingError(
            f"training under {accelerator.distributed_type.value} is not supported; launch plain "
            "processes, with the whole model on each (DDP) or sharded over them (--fsdp, FSDP2)"
        )
    num_parts = settings.num_accumulation_steps * accelerator.num_processes
    if settings.batch_size % num_parts:
        raise TrainingError(
            f"a batch of {settings.batch_size} cannot be split evenly over "
            f"{accelerator.num_processes} processes and {settings.num_accumulation_steps} "
            f"accumulation steps; give a multiple of {num_parts}"
        )


def _seed_generators(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed % _NUM_NUMPY_SEEDS)  # noqa: NPY002 - users' data sets and models use it
    torch.manual_seed(seed)
