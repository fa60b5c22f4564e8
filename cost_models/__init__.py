"""What a block of a layer costs on a device.

A leaf package: it imports neither torch nor the planner, so that it serves on the target device.
"""

from cost_models.channel_group import ChannelGroup, ChannelSlice
from cost_models.device_facts import DeviceFacts, Fact, Roofline, RooflineClass
from cost_models.device_profile import Device, DeviceProfile, Measurement, Provenance, Runtime
from cost_models.documents import read_document, write_document
from cost_models.errors import (
    CostModelError,
    DocumentError,
    SpartanPlannerError,
    UnknownNameError,
)
from cost_models.layer_timing import LayerTiming, ModelTiming, Sample, SparseTiming
from cost_models.layout import Layout, LayoutKind
from cost_models.linear_cost import LinearCost
from cost_models.protocol import CostModel
from cost_models.registry import cost_model, cost_model_names
from cost_models.workload import (
    ActivationProduct,
    LayerShape,
    LayerWorkload,
    SlicedWeight,
    UnpricedOperation,
    Workload,
)

__all__ = [
    "ActivationProduct",
    "ChannelGroup",
    "ChannelSlice",
    "CostModel",
    "CostModelError",
    "Device",
    "DeviceFacts",
    "DeviceProfile",
    "DocumentError",
    "Fact",
    "LayerShape",
    "LayerTiming",
    "LayerWorkload",
    "Layout",
    "LayoutKind",
    "LinearCost",
    "Measurement",
    "ModelTiming",
    "Provenance",
    "Roofline",
    "RooflineClass",
    "Runtime",
    "Sample",
    "SlicedWeight",
    "SparseTiming",
    "SpartanPlannerError",
    "UnknownNameError",
    "UnpricedOperation",
    "Workload",
    "cost_model",
    "cost_model_names",
    "read_document",
    "write_document",
]
