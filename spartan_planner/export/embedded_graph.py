"""The graph of a torch model as text, for its workload."""

from collections.abc import Sequence

from torch import Tensor, nn

from cost_models import Workload
from spartan_planner.export.torch_to_onnx import torch_to_onnx
from spartan_planner.graph_skeleton import graph_text, initializer_names


def embedded_graph(model: nn.Module, example_inputs: Sequence[Tensor], workload: Workload) -> str:
    """Return the model's ONNX graph with its weights left out, by which a target times the whole.

    Args:
        model: the model.
        example_inputs: its positional arguments, batch first.
        workload: extracted from it at these inputs.

    Raises:
        ExportError: torch cannot export the model.
        ModelError: the graph is too large.
    """
    # Of types that numpy lacks (bfloat16) an initializer is not recognised by its values.
    parameters = {
        name: parameter.detach().cpu().numpy()
        for name, parameter in model.named_parameters()
        if str(parameter.dtype) in ("torch.float16", "torch.float32", "torch.float64")
    }
    exported = torch_to_onnx(model, example_inputs)
    names = initializer_names(exported, parameters)
    shapes = [tuple(item.shape) for item in example_inputs]
    return graph_text(exported, shapes, names, workload.fingerprint)
