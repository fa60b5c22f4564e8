"""The log of a training run, as JSON lines and as a table.

Records depend on the run alone and hold no times of day, so that a run that was interrupted and
resumed leaves the log of one that was not.
"""

import csv
import json
import os
from collections.abc import Mapping
from io import StringIO
from pathlib import Path
from typing import Any

from spartan_planner.errors import DocumentError

LOG, TABLE = "log.jsonl", "log.csv"
_PER_LAYER = ("kept_sizes", "densities")
"""Figures of single layers: in the JSON lines only."""


class RunLog:
    """Appends records to ``log.jsonl`` and ``log.csv`` of a folder.

    Args:
        folder: of the run.
        sizes: how many bytes of each file to keep, from :meth:`sizes` of the run that is resumed;
            what was written after that is cut off.  Empty for a new log.

    Raises:
        DocumentError: the folder cannot be written.
    """

    def __init__(self, folder: Path, sizes: Mapping[str, int]) -> None:
        self._paths = {name: folder / name for name in (LOG, TABLE)}
        for name, path in self._paths.items():
            _truncate(path, sizes.get(name, 0))
        self._columns = _header(self._paths[TABLE])

    def write(self, record: Mapping[str, Any]) -> None:
        """Append a record; the first one decides the columns of the table.

        Raises:
            DocumentError: the disk is full.
        """
        row = flat_figures(record)
        lines = {LOG: json.dumps(record, allow_nan=False) + "\n", TABLE: ""}
        if self._columns is None:
            self._columns = list(row)
            lines[TABLE] = _csv_line(self._columns)
        lines[TABLE] += _csv_line([row.get(column) for column in self._columns])
        for name, path in self._paths.items():
            _append(path, lines[name])

    def sizes(self) -> dict[str, int]:
        """Sync both files to disk and return their sizes in bytes."""
        found = {}
        for name, path in self._paths.items():
            with path.open("rb") as stream:
                os.fsync(stream.fileno())
                found[name] = os.fstat(stream.fileno()).st_size
        return found


def flat_figures(record: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return the figures of a record under one name each, ``sparsifier/costs/latency``.

    Figures of single layers are left out.
    """
    flat: dict[str, Any] = {}
    for name, value in record.items():
        if isinstance(value, Mapping):
            if name not in _PER_LAYER:
                flat |= flat_figures(value, f"{prefix}{name}/")
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def _csv_line(values: list[Any]) -> str:
    stream = StringIO()
    csv.writer(stream, lineterminator="\n").writerow(values)
    return stream.getvalue()


def _header(path: Path) -> list[str] | None:
    with path.open(encoding="utf-8", newline="") as stream:
        return next(csv.reader(stream), None)


def _truncate(path: Path, size: int) -> None:
    try:
        path.touch()
        os.truncate(path, min(size, path.stat().st_size))
    except OSError as error:
        raise DocumentError(f"log {path} cannot be written: {error.strerror}") from error


def _append(path: Path, text: str) -> None:
    try:
        with path.open("a", encoding="utf-8", newline="") as stream:
            stream.write(text)
    except OSError as error:
        raise DocumentError(
            f"log {path} cannot be written: {error.strerror}; make room and resume"
        ) from error
