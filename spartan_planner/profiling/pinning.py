"""Keeping a process on some of its cores."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from spartan_planner.errors import ProfileError


@contextmanager
def pinned(num_threads: int) -> Iterator[tuple[int, ...]]:
    """Keep this process on the first ``num_threads`` cores that it may use; yield them.

    Raises:
        ProfileError: the system cannot pin, or the process may use fewer cores.
    """
    if not hasattr(os, "sched_setaffinity"):
        raise ProfileError("this system cannot pin a process to cores; leave --pin out")
    usable = os.sched_getaffinity(0)
    if len(usable) < num_threads:
        raise ProfileError(
            f"{num_threads} threads cannot be pinned: this process may use {len(usable)} cores; "
            "ask for fewer threads or leave --pin out"
        )
    cores = tuple(sorted(usable)[:num_threads])
    os.sched_setaffinity(0, cores)
    try:
        yield cores
    finally:
        os.sched_setaffinity(0, usable)
