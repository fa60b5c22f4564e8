"""Names of models and of example inputs, as users write them, turned into objects."""

import difflib
import importlib
import inspect
import itertools
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import init_empty_weights
from torch import Tensor, nn

from spartan_planner.errors import ModelError, UsageError
from spartan_planner.extraction.extract import ASKS_FOR_IDS
from spartan_planner.input_shapes import parse_shapes
from spartan_planner.lazy_parameters import with_known_shapes
from spartan_planner.torchvision_operators import prepare_torchvision, with_torchvision

DEFAULT_SEED = 0


def load_model(name: str, seed: int = DEFAULT_SEED, on_meta: bool = False) -> nn.Module:
    """Build the model that ``name`` stands for, its random weights fixed by ``seed``.

    Args:
        name: ``torchvision:NAME``, ``timm:NAME``, ``transformers:TYPE`` (with the type's default
            configuration) or ``package.module:factory``, the last found on the import path and in
            the current folder and called without arguments.
        seed: of torch's generator before the model is built.
        on_meta: build it on the meta device: shapes without values, however large.

    Raises:
        ModelError: no such package, module, factory or model, or it fails to build.
    """
    source, separator, rest = name.partition(":")
    if not separator or not source or not rest:
        raise ModelError(_no_name(name))
    source_of: Callable[[str], nn.Module] = _SOURCES.get(source, lambda _: _from_factory(name))

    def build() -> nn.Module:
        torch.manual_seed(seed)
        return source_of(rest)

    if not on_meta:
        return with_known_shapes(with_torchvision(build), name)
    # Only parameters are made on the meta device: some models read other tensors while they are
    # built.
    with init_empty_weights():
        model = with_torchvision(build)
    return with_known_shapes(model, name).to("meta")


def _no_name(name: str) -> str:
    """What to write instead of a text that names no model, by what it looks like."""
    path = Path(name.removesuffix(":"))
    if path.suffix in (".yaml", ".yml"):
        return f"{name} is a workload already, not a model: give it to 'profile' or 'plan'"
    if path.suffix == ".onnx":
        return (
            f"{name} is an ONNX file, and this command needs the torch model; write "
            "package.module:factory"
        )
    if path.suffix in (".safetensors", ".pt", ".pth", ".bin"):
        return (
            f"{name} holds weights, not a model; write package.module:factory and give the weights "
            "with --checkpoint"
        )
    if path.suffix == ".py" or path.with_suffix(".py").is_file():
        module = ".".join(path.with_suffix("").parts)
        return (
            f"model {name!r} names a module, not what builds the model; write {module}:FUNCTION, "
            "a function that returns it"
        )
    return (
        f"model {name!r} is not known; write torchvision:NAME, timm:NAME, transformers:TYPE or "
        "package.module:factory"
    )


def load_object(name: str, purpose: str) -> Any:  # noqa: ANN401 - whatever the user's module holds
    """Import ``package.module:attribute``, the current folder included.

    Raises:
        UsageError: the module or the attribute does not exist or fails to import.
    """
    module_name, _, attribute = name.partition(":")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        module = with_torchvision(lambda: importlib.import_module(module_name))
    except (Exception, SystemExit) as error:
        raise UsageError(
            f"{purpose} {name!r}: cannot import {module_name!r} ({error}); it is looked for on "
            "PYTHONPATH and in the current folder"
        ) from error
    if not attribute or not hasattr(module, attribute):
        offered = [key for key, item in vars(module).items() if callable(item) and key[0] != "_"]
        hint = _hint(attribute, offered)
        raise UsageError(f"{purpose} {name!r}: module {module_name!r} has no {attribute!r}{hint}")
    return getattr(module, attribute)


def _hint(wrong: str, offered: list[str]) -> str:
    close = difflib.get_close_matches(wrong, offered, 3)
    return f"; did you mean {' or '.join(close)}?" if close else ""


def _from_factory(name: str) -> nn.Module:
    try:
        factory = load_object(name, "model")
    except UsageError as error:
        raise ModelError(str(error)) from error
    model = _build(name, factory)
    if not isinstance(model, nn.Module):
        raise ModelError(
            f"model {name!r} returned {type(model).__name__}; it must return a torch.nn.Module"
        )
    return model


def _from_torchvision(name: str) -> nn.Module:
    models = import_models("torchvision.models")
    if name not in models.list_models():
        close = _hint(name, models.list_models())
        raise ModelError(f"torchvision has no model {name!r}{close}")
    # Detection and segmentation download the weights of their backbone unless told not to.
    builder = models.get_model_builder(name)
    names = [key for key in _WEIGHTS if key in inspect.signature(builder).parameters]
    model: nn.Module = _build(name, lambda: builder(**dict.fromkeys(names)))
    return model


_WEIGHTS = ("weights", "weights_backbone")


def _from_timm(name: str) -> nn.Module:
    timm = import_models("timm")
    if not timm.is_model(name):
        raise ModelError(f"timm has no model {name!r}{_hint(name, timm.list_models())}")
    model: nn.Module = _build(name, lambda: timm.create_model(name, pretrained=False))
    return model


def _from_transformers(model_type: str) -> nn.Module:
    transformers = import_models("transformers")
    offered = sorted(transformers.models.auto.modeling_auto.MODEL_MAPPING_NAMES)
    if model_type not in offered:
        hint = _hint(model_type, offered)
        raise ModelError(f"transformers has no model type {model_type!r}{hint}")

    def build() -> Any:  # noqa: ANN401 - a model
        return transformers.AutoModel.from_config(transformers.AutoConfig.for_model(model_type))

    model: nn.Module = _build(model_type, build)
    return model


_SOURCES: dict[str, Callable[[str], nn.Module]] = {
    "torchvision": _from_torchvision,
    "timm": _from_timm,
    "transformers": _from_transformers,
}


def import_models(module: str) -> Any:  # noqa: ANN401 - a module
    """Import a package of models, or a module of one, also where torchvision needs help.

    Raises:
        ModelError: it cannot be imported.
    """
    try:
        prepare_torchvision()
        return importlib.import_module(module)
    except Exception as error:
        raise ModelError(
            f"{module.partition('.')[0]} cannot be imported ({error}); install it with "
            "pip install 'spartan-planner[models]'"
        ) from error


def _build(name: str, factory: Callable[[], Any]) -> Any:  # noqa: ANN401 - checked by the caller
    try:
        return factory()
    except (Exception, SystemExit) as error:
        raise ModelError(f"model {name!r} fails to build: {error}") from error


def parse_input_shape(text: str) -> tuple[Tensor, ...]:
    """Return standard normal inputs of the shape ``1,3,224,224``; several split by ``;``.

    Raises:
        UsageError: the text is not a list of positive numbers, or the inputs are too large.
    """
    shapes = parse_shapes(text)
    generator = torch.Generator().manual_seed(DEFAULT_SEED)
    try:
        return tuple(torch.randn(shape, generator=generator) for shape in shapes)
    except (RuntimeError, OverflowError, TypeError) as error:
        raise UsageError(f"inputs of shape {text} are too large to be made") from error


def inputs_suiting(model: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Return token ids for a model that reads tokens, else the inputs in the model's own type.

    A Hugging Face model says by ``main_input_name`` that it reads ``input_ids``.  Its first input
    becomes ids below the size of its vocabulary; further ones, masks, become ones.  An encoder
    with a decoder, given one shape, reads the same ids in both.

    Any other model with a table that rows are looked up in is run once; where it refuses real
    numbers, the inputs that it refuses become ids below the size of its smallest table.
    """
    if getattr(model, "main_input_name", "") == "input_ids":
        return _tokens(model, inputs)
    suited = tuple(item.to(_floating_type(model)) for item in inputs)
    sizes = [item.num_embeddings for item in model.modules() if isinstance(item, _TABLES)]
    if not sizes or len(suited) > MAX_TRIED_INPUTS:
        return suited
    generator = torch.Generator().manual_seed(DEFAULT_SEED)
    ids = [torch.randint(min(sizes), item.shape, generator=generator) for item in inputs]
    other = suited
    for candidate in itertools.product(*zip(suited, ids, strict=True)):
        refusal = _refusal(model, candidate)
        if not refusal:
            return candidate
        # What stops ids of a wrong shape is worth more to the user than that they must be ids.
        if other is suited and ASKS_FOR_IDS not in refusal:
            other = candidate
    return other


_TABLES = (nn.Embedding, nn.EmbeddingBag)

MAX_TRIED_INPUTS = 4
"""Of more inputs it is not tried out which of them are ids."""


def _tokens(model: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    config: Any = model.config
    generator = torch.Generator().manual_seed(DEFAULT_SEED)
    size = config.get_text_config().vocab_size
    ids = torch.randint(size, inputs[0].shape, generator=generator)
    if config.is_encoder_decoder and len(inputs) == 1:
        return ids, torch.ones_like(ids), ids
    return ids, *(torch.ones(item.shape, dtype=torch.int64) for item in inputs[1:])


def _refusal(model: nn.Module, inputs: tuple[Tensor, ...]) -> str:
    """Run the model, leave it as it was, and return what it says against the inputs."""
    device = next((item.device for item in model.parameters()), torch.device("cpu"))
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        with torch.no_grad(), device:
            model(*(item.to(device) for item in inputs))
    except (Exception, SystemExit) as error:
        return str(error) or type(error).__name__
    finally:
        for module in training:
            module.training = True
    return ""


def in_floating_type(model: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Return inputs of float64, numpy's default, in the model's floating type; others as is."""
    kind = _floating_type(model)
    return tuple(item.to(kind) if item.dtype == torch.float64 else item for item in inputs)


def _floating_type(model: nn.Module) -> torch.dtype:
    types = (item.dtype for item in model.parameters())
    return next((item for item in types if item in _ACTIVATION_TYPES), torch.float32)


_ACTIVATION_TYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def read_example_inputs(path: Path) -> tuple[Tensor, ...]:
    """Read example inputs from an ``.npy`` file, or an ``.npz`` file in its own order.

    Raises:
        UsageError: the file is missing or holds no plain arrays.
    """
    try:
        loaded = np.load(path, allow_pickle=False)
        arrays = [loaded] if isinstance(loaded, np.ndarray) else [loaded[key] for key in loaded]
        tensors = tuple(torch.from_numpy(np.ascontiguousarray(array)) for array in arrays)
    except OSError as error:
        reason = error.strerror or str(error)
        raise UsageError(f"example inputs {path} cannot be read: {reason}") from error
    except (ValueError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise UsageError(
            f"example inputs {path} cannot be read: the file holds no plain arrays of numbers; "
            "write them with numpy.save or numpy.savez"
        ) from error
    if not tensors:
        raise UsageError(f"example inputs {path} hold no array")
    return tensors


def example_inputs(input_shape: str | None, inputs: Path | None) -> tuple[Tensor, ...]:
    """Return example inputs from ``--input-shape`` or ``--inputs``, exactly one of them given.

    Raises:
        UsageError: neither or both are given, or the given one cannot be understood.
    """
    if input_shape is not None and inputs is not None:
        raise UsageError("give either --input-shape or --inputs, not both")
    if input_shape is not None:
        return parse_input_shape(input_shape)
    if inputs is not None:
        return read_example_inputs(inputs)
    raise UsageError(
        "the model must be run once: give either --input-shape 1,3,224,224 or --inputs with an "
        ".npy or .npz file"
    )
