"""Rounds kept on disk while a profile is made, so that an interrupted run can go on.

One JSON object per line: first what the rounds belong to, then one line per round.  Lines are
appended and forced to disk; a line that was cut off by a crash is left out and overwritten.
"""

import hashlib
import json
import math
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cost_models import Device, Workload
from cost_models.documents import to_plain, write_atomically
from spartan_planner.errors import ProfileError
from spartan_planner.profiling.device import package_versions
from spartan_planner.profiling.measurement_plan import MAX_BATCH_BYTES, Batch
from spartan_planner.profiling.rounds import Round
from spartan_planner.profiling.settings import ProfileSettings
from spartan_planner.runtimes import Runtime

FORMAT = "spartan-planner rounds 1"
SUFFIX = ".partial"


@dataclass(frozen=True)
class Belonging:
    """What rounds belong to: they may be added to others of the same only.

    Attributes:
        model: name of the workload's model.
        workload: SHA-256 of the workload.
        settings: what of the settings changes a figure.
        runtime: name, version and provider.
        versions: of the packages that take part.
        machine: processor, architecture, cores.
    """

    model: str
    workload: str
    settings: dict[str, Any]
    runtime: dict[str, Any]
    versions: dict[str, Any]
    machine: dict[str, Any]


def belonging(
    workload: Workload, settings: ProfileSettings, runtime: Runtime, device: Device
) -> Belonging:
    """Return what the rounds of a run belong to."""
    plain = json.dumps(to_plain(workload), sort_keys=True)
    return Belonging(
        model=workload.model,
        workload=hashlib.sha256(plain.encode()).hexdigest(),
        settings={
            "num_threads": settings.num_threads,
            "is_pinned": settings.is_pinned,
            "whole_model": settings.whole_model,
            "with_channels": settings.with_channels,
            "max_batch_bytes": MAX_BATCH_BYTES,
        },
        runtime={"name": runtime.name, "version": runtime.version, "provider": runtime.provider},
        versions=dict(package_versions(runtime.name)),
        machine={
            "cpu": device.cpu,
            "architecture": device.architecture,
            "num_cores": device.num_cores,
        },
    )


class PartialFile:
    """The file of rounds beside a profile in the making.

    Args:
        path: of the file; made with the first rounds.
        owner: what the rounds belong to.
    """

    def __init__(self, path: Path, owner: Belonging) -> None:
        self._path = path
        self._owner = owner

    def read(self, batches: Sequence[Batch]) -> list[Round]:
        """Return the rounds so far and cut off what a crash left incomplete.

        Args:
            batches: to which the rounds belong.

        Raises:
            ProfileError: the file belongs to something else, or is damaged.
        """
        if not self._path.exists():
            return []
        content = self._read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        lines = whole.splitlines()
        if not lines:
            self._path.unlink()
            return []
        self._require_same(self._parse(lines[0]))
        rounds = [self._round(self._parse(line), batches) for line in lines[1:]]
        if len(whole) < len(content):
            os.truncate(self._path, len(whole))
        return rounds

    def append(self, rounds: Sequence[Round]) -> None:
        """Add rounds and force them to disk.

        Raises:
            ProfileError: the file cannot be written.
        """
        lines = "".join(json.dumps(asdict(item)) + "\n" for item in rounds)
        try:
            if not self._path.exists():
                header = json.dumps({"format": FORMAT, **asdict(self._owner)}) + "\n"
                write_atomically(self._path, lambda path: path.write_text(header, "utf-8"))
            with self._path.open("a", encoding="utf-8") as file:
                file.write(lines)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise ProfileError(
                f"{self._path} cannot be written ({error.strerror}); choose another place with -o"
            ) from error

    def remove(self) -> None:
        """Delete the file, where there is one."""
        self._path.unlink(missing_ok=True)

    def _read_bytes(self) -> bytes:
        try:
            return self._path.read_bytes()
        except OSError as error:
            raise ProfileError(
                f"{self._path} cannot be read ({error.strerror}); delete it or choose another "
                "place with -o"
            ) from error

    def _parse(self, line: bytes) -> dict[str, Any]:
        try:
            parsed = json.loads(line)
        except ValueError as error:
            raise self._damaged() from error
        if not isinstance(parsed, dict):
            raise self._damaged()
        return parsed

    def _require_same(self, header: dict[str, Any]) -> None:
        if header.get("format") != FORMAT:
            raise self._damaged()
        if header.get("workload") != self._owner.workload:
            raise ProfileError(
                f"{self._path} holds rounds of another workload (of model "
                f"{header.get('model')!r}); delete it, or write this profile elsewhere with -o"
            )
        for name in ("settings", "runtime", "versions", "machine"):
            then, now = header.get(name), getattr(self._owner, name)
            if then != now:
                raise ProfileError(
                    f"{self._path} was begun with other {name} ({_difference(then, now)}); delete "
                    "it to begin anew, or measure as it was begun"
                )

    def _round(self, line: dict[str, Any], batches: Sequence[Batch]) -> Round:
        try:
            times = tuple(float(figure) for figure in line["times_ms"])
            item = Round(
                int(line["batch"]), float(line["yardstick_ms"]), times, float(line["duration_s"])
            )
        except (KeyError, TypeError, ValueError) as error:
            raise self._damaged() from error
        figures = (item.yardstick_ms, item.duration_s, *times)
        if (
            not 0 <= item.batch < len(batches)
            or len(times) != batches[item.batch].num_figures
            or not all(0 <= figure < math.inf for figure in figures)
            or item.yardstick_ms == 0
        ):
            raise self._damaged()
        return item

    def _damaged(self) -> ProfileError:
        return ProfileError(
            f"{self._path} is damaged or of another version of this program; delete it to begin "
            "anew"
        )


def num_kept_rounds(path: Path) -> int:
    """Return how many whole rounds a file holds; none where there is no file."""
    return max(0, path.read_bytes().count(b"\n") - 1) if path.is_file() else 0


def _difference(then: object, now: dict[str, Any]) -> str:
    if not isinstance(then, dict):
        return "which it does not say"
    for name in {**now, **then}:
        if then.get(name) != now.get(name):
            return f"{name} {then.get(name)}, now {now.get(name)}"
    return "in another order"
