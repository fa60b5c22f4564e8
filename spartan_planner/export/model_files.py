"""ONNX files written whole, checked before they appear, with large weights beside them."""

import tempfile
from collections.abc import Callable
from pathlib import Path

import onnx
import onnx_ir as ir

from cost_models.documents import write_atomically
from spartan_planner.errors import DocumentError, ExportError

MAX_INLINE_BYTES = 2**31 - 2**26
"""A protocol buffer ends at 2 GiB; 64 MiB are left for nodes and what the file says of itself."""


def is_external(graph: ir.Model, wanted: bool | None) -> bool:
    """Return whether weights go into a file of their own.

    Args:
        graph: with its weights.
        wanted: what the user asks for; ``None`` for only where they do not fit inside.

    Raises:
        ExportError: they shall be inside and do not fit.
    """
    values = [value.const_value for value in graph.graph.initializers.values()]
    num_bytes = sum(item.nbytes for item in values if item is not None)
    if num_bytes <= MAX_INLINE_BYTES:
        return bool(wanted)
    if wanted is False:
        raise ExportError(
            f"the weights take {num_bytes / 1e9:.2f} GB and an ONNX file holds at most "
            f"{MAX_INLINE_BYTES / 1e9:.2f} GB; write them as external data"
        )
    return True


def write_files(
    path: Path, model: ir.Model | onnx.ModelProto, external: bool, check: Callable[[Path], None]
) -> tuple[Path, ...]:
    """Write a model and return its files; they appear once ``check`` has accepted them.

    External data go to ``NAME.onnx.data`` and appear before the model that names them.

    Args:
        path: the file to write.
        model: the model.
        external: whether its weights go into a file of their own.
        check: reads the model, at another path, and raises when it is not as it should be.

    Raises:
        DocumentError: the files cannot be written.
    """
    data = path.with_name(f"{path.name}.data")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder:
            draft = Path(folder) / path.name
            _save(model, draft, data.name if external else None)
            check(draft)
            written = [item for item in (data, path) if (Path(folder) / item.name).exists()]
            for item in written:
                write_atomically(item, (Path(folder) / item.name).replace)
    except OSError as error:
        raise DocumentError(f"{path} cannot be written: {error.strerror or error}") from error
    return tuple(reversed(written))


def _save(model: ir.Model | onnx.ModelProto, path: Path, data: str | None) -> None:
    if isinstance(model, ir.Model):
        ir.save(model, path, external_data=data)
    elif data is None:
        onnx.save_model(model, path)
    else:
        onnx.save_model(model, path, save_as_external_data=True, location=data)
