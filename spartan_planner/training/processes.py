"""One process writes, all of them learn what came of it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list

from spartan_planner.errors import SpartanPlannerError

_Result = TypeVar("_Result")


def has_only_cpus() -> bool:
    """Whether training runs on the CPU; Accelerate joins processes there only when it is told."""
    return not torch.accelerator.is_available()


def on_main_process(act: Callable[[], _Result]) -> _Result:
    """Call ``act`` on the main process and return its result on every process.

    Raises:
        SpartanPlannerError: what ``act`` raised, on every process, so that none waits for ever.
    """
    said: list[object] = [None, None]
    if PartialState(cpu=has_only_cpus()).is_main_process:
        try:
            said[0] = act()
        except SpartanPlannerError as error:
            said[1] = error
    broadcast_object_list(said)
    if isinstance(said[1], SpartanPlannerError):
        raise said[1]
    return said[0]  # type: ignore[return-value]


@contextmanager
def joined_processes() -> Iterator[bool]:
    """Join the processes that were launched together, for one command; yield whether it is main."""
    state = PartialState(cpu=has_only_cpus())
    try:
        yield bool(state.is_main_process)
    finally:
        state.destroy_process_group()
