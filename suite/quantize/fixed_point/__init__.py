"""Fixed-point networks: scales are dyadic, so that every step is an integer sum, a product, a shift and a clamp."""

from suite.quantize.fixed_point.convert import fixed_point_network, reference_network
from suite.quantize.fixed_point.file import read_fixed_point, write_fixed_point
from suite.quantize.fixed_point.layer import FixedPointLayer, Output
from suite.quantize.fixed_point.network import FixedPointNetwork, Step

__all__ = [
    "FixedPointLayer",
    "FixedPointNetwork",
    "Output",
    "Step",
    "fixed_point_network",
    "read_fixed_point",
    "reference_network",
    "write_fixed_point",
]
