"""Integer networks: quantized networks that compute with integers only, the same to the last bit in every program."""

from suite.quantize.integer.lower import integer_network
from suite.quantize.integer.network import IntegerNetwork
from suite.quantize.integer.onnx_graph import OPSETS, onnx_model
from suite.quantize.integer.packing import pack, unpack
from suite.quantize.integer.qonnx_graph import QONNX_OPSET, inexact_layers, qonnx_model
from suite.quantize.integer.runtime import OnnxNetwork

__all__ = [
    "OPSETS",
    "QONNX_OPSET",
    "IntegerNetwork",
    "OnnxNetwork",
    "inexact_layers",
    "integer_network",
    "onnx_model",
    "pack",
    "qonnx_model",
    "unpack",
]
