"""Files that may be damaged or hostile, looked at before a runtime opens them."""

from pathlib import Path

from onnx import ModelProto, TensorProto

from spartan_planner.errors import ModelError
from spartan_planner.export_metadata import read_graph
from spartan_planner.graph_skeleton.tensors import every_tensor, is_external


def read_checked(path: Path) -> tuple[ModelProto, tuple[Path, ...]]:
    """Return a model, its large weights left on disk, and the files that hold those.

    Raises:
        ModelError: the file is not an ONNX model with a graph, or names data outside its folder,
            or data that are not there.
    """
    model = read_graph(path)
    if not model.graph.node or not model.opset_import:
        raise ModelError(f"{path} is not an ONNX model: it has no graph; export it again")
    external = [item for item in every_tensor(model) if is_external(item)]
    files = dict.fromkeys(_data_of(tensor, path) for tensor in external)
    return model, tuple(files)


def _data_of(tensor: TensorProto, path: Path) -> Path:
    """The file that holds a tensor's data, all of them."""
    facts: dict[str, str] = {item.key: item.value for item in tensor.external_data}
    location = facts.get("location", "")
    if "\0" in location:
        raise ModelError(f"{path} is damaged: {location[:40]!r} is no name of a file")
    folder = path.parent.resolve()
    data = (folder / location).resolve()
    if not location or Path(location).is_absolute() or not data.is_relative_to(folder):
        raise ModelError(
            f"{path} wants to read the data of tensor {tensor.name!r} from {location!r}, outside "
            "its own folder; keep all files of a model in one folder, and trust no other"
        )
    if not data.is_file():
        raise ModelError(
            f"the data of tensor {tensor.name!r} of {path} are not there ({data.name}); keep all "
            "files of a model in one folder"
        )
    end = _number(facts, "offset", path) + _number(facts, "length", path)
    if end > data.stat().st_size:
        raise ModelError(
            f"{data.name} has {data.stat().st_size} bytes and {path} reads {end} of them: it is "
            "cut off or of another model; copy or export both again"
        )
    return data


def _number(facts: dict[str, str], key: str, path: Path) -> int:
    text = facts.get(key, "0")
    if not text.isascii() or not text.isdigit():
        raise ModelError(f"{path} is damaged: {key} of external data is {text[:40]!r}, no number")
    return int(text)
