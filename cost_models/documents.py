"""YAML documents: read into frozen dataclasses with nothing unknown let through, written whole.

A document is a frozen dataclass whose first field is ``schema_version``.  Reading checks every key
and every value; what is wrong is named by file, path inside the file, what was found and what is
allowed.  Writing goes through a temporary file in the same folder, so that a file appears whole or
not at all.
"""

import json
import math
import os
import re
import reprlib
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import ConfigDict, TypeAdapter, ValidationError, with_config

from cost_models.errors import DocumentError

MAX_DOCUMENT_BYTES = 64 * 1024 * 1024
"""A larger YAML file is refused unread: no profile, plan or workload comes near it."""

_Document = TypeVar("_Document")
_STRICT = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


def document(cls: type[_Document]) -> type[_Document]:
    """Class decorator: this frozen dataclass is read with unknown keys refused, types exact."""
    return with_config(_STRICT)(cls)


_ADAPTERS: dict[type[Any], TypeAdapter[Any]] = {}


def _adapter(cls: type[Any]) -> TypeAdapter[Any]:
    if cls not in _ADAPTERS:
        _ADAPTERS[cls] = TypeAdapter(cls)
    return _ADAPTERS[cls]


def read_document(path: Path, cls: type[_Document], kind: str) -> _Document:
    """Read the YAML file ``path`` as ``cls``.

    Args:
        path: the file.
        cls: a frozen dataclass decorated with :func:`document`.
        kind: what a user calls it ("profile", "plan", "workload"); used in messages.

    Raises:
        DocumentError: the file is missing, too large, not YAML, or does not fit ``cls``.
    """
    return parse_document(_read_text(path, kind), cls, f"{kind} {path}")


def parse_document(text: str, cls: type[_Document], origin: str) -> _Document:
    """Parse YAML ``text`` as ``cls``; ``origin`` names it in messages.

    Raises:
        DocumentError: the text is not YAML or does not fit ``cls``.
    """
    try:
        plain = yaml.load(text, Loader=_Loader)
        as_json = json.dumps(plain)
    except _NOT_PLAIN_YAML as error:
        raise DocumentError(
            f"{origin} is not a plain YAML document: {_yaml_problem(error)}; correct it, or "
            "copy it again if it is cut off"
        ) from error
    if plain is None:
        raise DocumentError(f"{origin} is empty; is it the right file?")
    try:
        parsed: _Document = _adapter(cls).validate_json(as_json)
    except ValidationError as error:
        raise DocumentError(_first_problem(error, origin)) from error
    return parsed


_NOT_PLAIN_YAML = (
    yaml.YAMLError,
    ArithmeticError,
    AttributeError,
    LookupError,
    RecursionError,
    TypeError,
    ValueError,
)
"""What the YAML library raises: tags such as ``!!int ""`` make it fail in ways of their own."""


def _yaml_problem(error: Exception) -> str:
    """What the library found, and in which line, without the excerpts that it prints."""
    if isinstance(error, yaml.MarkedYAMLError) and error.problem and error.problem_mark:
        return f"{error.problem} in line {error.problem_mark.line + 1}"
    return " ".join(str(error).split())


class _Loader(yaml.SafeLoader):
    """Safe YAML that also reads floats such as ``1e-05``, refuses repeated keys and aliases."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str):
                raise yaml.YAMLError(f"keys must be text, found {key!r} at{key_node.start_mark}")
            if key in seen:
                raise yaml.YAMLError(f"key {key!r} appears twice at{key_node.start_mark}")
            seen.add(key)
        return super().construct_mapping(node, deep)

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        # An alias can make a small file unfold into an enormous one.
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("aliases (*name) are not allowed")
        return super().compose_node(parent, index)


def _read_text(path: Path, kind: str) -> str:
    try:
        if path.stat().st_size > MAX_DOCUMENT_BYTES:
            raise DocumentError(
                f"{kind} {path} has {path.stat().st_size} bytes; at most {MAX_DOCUMENT_BYTES} "
                "are read: is it the right file?"
            )
        return path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise DocumentError(f"{kind} {path} does not exist; check the path") from error
    except (OSError, ValueError) as error:
        raise DocumentError(f"{kind} {path} cannot be read as text: {error}") from error


_SHORT = reprlib.Repr()
"""Shows what was found with long texts and lists shortened, each by itself."""
_SHORT.maxstring = _SHORT.maxother = 60


def _first_problem(error: ValidationError, origin: str) -> str:
    first = error.errors(include_url=False)[0]
    where = "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in first["loc"]).lstrip(".")
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    if first["type"] == "missing":
        return f"{origin}: at {where}: found nothing: field required{more}; is it the right file?"
    if first["loc"] == ("schema_version",) and first["type"] == "literal_error":
        return (
            f"{origin}: at schema_version: found {first['input']!r}: not read by this version, "
            f"which reads {first['ctx']['expected']}; make the file anew with it"
        )
    found = _SHORT.repr(first["input"])
    message = first["msg"].removeprefix("Value error, ")
    message = message[:1].lower() + message[1:]
    return f"{origin}: at {where or 'the top'}: found {found}: {message}{more}"


def to_plain(value: object) -> Any:  # noqa: ANN401 - a tree of dicts, lists and scalars
    """Return ``value`` (a document or part of one) as dicts, lists and scalars."""
    return _adapter(type(value)).dump_python(value, mode="json")


def dump_document(value: object) -> str:
    """Return the YAML text of a document, keys in the order of the fields.

    Raises:
        DocumentError: a figure is not finite, and could not be read back.
    """
    text: str = yaml.dump(
        to_plain(value), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100
    )
    return text


class _Dumper(yaml.SafeDumper):
    """Lists of scalars on one line, everything else in blocks: short and diffable."""


_FLOAT_WITHOUT_POINT = re.compile(r"[-+]?[0-9]+[eE][-+]?[0-9]+$")
for _side in (_Loader, _Dumper):
    # JSON writes "1e-05", which YAML 1.1 takes for text; the writer quotes text of that form.
    _side.add_implicit_resolver(
        "tag:yaml.org,2002:float", _FLOAT_WITHOUT_POINT, list("-+0123456789")
    )


def _represent_list(dumper: yaml.SafeDumper, data: list[Any]) -> yaml.Node:
    flat = not any(isinstance(item, list | dict) for item in data)
    return dumper.represent_sequence("tag:yaml.org,2002:seq", data, flow_style=flat)


def _represent_float(dumper: yaml.SafeDumper, data: float) -> yaml.Node:
    # For other readers of YAML 1.1, to which a float needs a point in its mantissa.
    if not math.isfinite(data):
        raise DocumentError(f"a document holds finite figures, not {data}")
    text = repr(data)
    if "e" in text and "." not in text:
        text = text.replace("e", ".0e")
    return dumper.represent_scalar("tag:yaml.org,2002:float", text)


def _represent_text(dumper: yaml.SafeDumper, data: str) -> yaml.Node:
    # Unless they are escaped, these are read back as ordinary line breaks.
    style = '"' if any(mark in data for mark in "\x85\u2028\u2029") else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", data, style)


_Dumper.add_representer(list, _represent_list)
_Dumper.add_representer(str, _represent_text)
_Dumper.add_representer(float, _represent_float)


def write_document(path: Path, value: object) -> None:
    """Write ``value`` as YAML to ``path``, whole or not at all.

    Raises:
        DocumentError: the file cannot be written.
    """
    text = dump_document(value)
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def write_json(path: Path, value: object) -> None:
    """Write plain data as indented JSON to ``path``, whole or not at all.

    Raises:
        DocumentError: the file cannot be written, or a figure is not finite.
    """
    try:
        text = json.dumps(value, indent=2, allow_nan=False) + "\n"
    except ValueError as error:
        raise DocumentError(f"{path} cannot be written: {error}") from error
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Call ``write`` with a temporary path beside ``path``, sync it to disk and rename it.

    Raises:
        DocumentError: the folder or the file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _temporary_beside(path) as temporary:
            write(temporary)
            temporary.chmod(_mode_of_new_files())
            with temporary.open("rb") as stream:
                os.fsync(stream.fileno())
            temporary.replace(path)
    except OSError as error:
        raise DocumentError(f"{path} cannot be written: {error.strerror or error}") from error


def _mode_of_new_files() -> int:
    """The mode of any new file: temporary files, and those of some writers, are private."""
    umask = os.umask(0)
    os.umask(umask)
    return 0o666 & ~umask


@contextmanager
def _temporary_beside(path: Path) -> Iterator[Path]:
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
    finally:
        with suppress(FileNotFoundError):
            temporary.unlink()
