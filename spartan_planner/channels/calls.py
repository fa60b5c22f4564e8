"""One call of an operation, its arguments by name."""

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from spartan_planner.channels.layers import Labelled
from spartan_planner.channels.tensors import LabelledTensors
from spartan_planner.channels.units import Units


@dataclass(frozen=True)
class Call:
    """What an operation read and wrote.

    Attributes:
        func: the operator's overload.
        arguments: by the names of its schema, defaults filled in.
        output: what it returned.
        tensors: what is known of every tensor.
    """

    func: Any
    arguments: dict[str, Any]
    output: Any
    tensors: LabelledTensors = field(repr=False)

    @classmethod
    def of(
        cls,
        func: Any,  # noqa: ANN401 - an operator's overload
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        output: object,
        tensors: LabelledTensors,
    ) -> "Call":
        """Name the arguments of a call."""
        schema = func._schema.arguments
        arguments = {item.name: item.default_value for item in schema}
        arguments |= {item.name: value for item, value in zip(schema, args, strict=False)}
        return cls(func, arguments | kwargs, output, tensors)

    @property
    def name(self) -> str:
        """The operation's name without namespace and overload."""
        return str(self.func.overloadpacket.__name__)

    @property
    def units(self) -> Units:
        """The sets of labels."""
        return self.tensors.units

    def labelled(self, argument: str) -> Labelled:
        """Return what is known of a tensor argument."""
        return self.tensors.of(self.arguments[argument])

    def optional(self, argument: str) -> Labelled | None:
        """Return what is known of a tensor argument that may be missing."""
        value = self.arguments.get(argument)
        return self.tensors.of(value) if isinstance(value, Tensor) else None
