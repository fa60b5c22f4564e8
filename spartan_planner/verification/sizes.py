"""What a model takes on disk."""

import zlib
from collections.abc import Sequence
from pathlib import Path

from spartan_planner.errors import ModelError
from spartan_planner.verification.results import FileSize

_CHUNK_BYTES = 1 << 20


def file_size(files: Sequence[Path], compress: bool) -> FileSize:
    """Return the size of a model's files together.

    Args:
        files: the model and its external data.
        compress: whether to compress them as well, which takes seconds for a large model.

    Raises:
        ModelError: a file cannot be read.
    """
    try:
        num_bytes = sum(path.stat().st_size for path in files)
        compressed = sum(map(_compressed_bytes, files)) if compress else None
    except OSError as error:
        raise ModelError(f"{error.filename} cannot be read: {error.strerror}") from error
    return FileSize(num_bytes, compressed)


def _compressed_bytes(path: Path) -> int:
    compressor, total = zlib.compressobj(), 0
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK_BYTES):
            total += len(compressor.compress(chunk))
    return total + len(compressor.flush())
