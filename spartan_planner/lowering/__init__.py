"""Rewriting ONNX graphs so that zero blocks save time on an ordinary runtime; needs no torch."""

from spartan_planner.lowering.convolution import PackedConvolution, pack_convolution
from spartan_planner.lowering.graph import LoweredLayer, lower_graph

__all__ = ["LoweredLayer", "PackedConvolution", "lower_graph", "pack_convolution"]
