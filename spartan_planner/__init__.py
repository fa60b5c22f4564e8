"""Spartan Planner: ask for milliseconds on your device; get a pruned ONNX model that delivers."""
