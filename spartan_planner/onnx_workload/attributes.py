"""Attributes of nodes, with their defaults."""

from onnx import AttributeProto, NodeProto


def _find(node: NodeProto, name: str) -> AttributeProto | None:
    return next((item for item in node.attribute if item.name == name), None)


def integer(node: NodeProto, name: str, default: int) -> int:
    """Return an integer attribute."""
    found = _find(node, name)
    return default if found is None else int(found.i)


def integers(node: NodeProto, name: str) -> tuple[int, ...]:
    """Return an attribute of several integers, empty where it is not given."""
    found = _find(node, name)
    return () if found is None else tuple(int(item) for item in found.ints)


def text(node: NodeProto, name: str) -> str:
    """Return an attribute that is a text, empty where it is not given."""
    found = _find(node, name)
    return "" if found is None else found.s.decode()


def operand(node: NodeProto, slot: int) -> str:
    """Return the name of an input, empty where an optional one is left out."""
    return node.input[slot] if slot < len(node.input) else ""
