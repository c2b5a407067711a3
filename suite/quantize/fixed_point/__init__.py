"""Fixed-point networks: scales are powers of two, so that every step is an integer sum, a shift and a clamp."""

from suite.quantize.fixed_point.file import read_fixed_point, write_fixed_point
from suite.quantize.fixed_point.layer import FixedPointLayer, Output
from suite.quantize.fixed_point.network import FixedPointNetwork, Step

__all__ = ["FixedPointLayer", "FixedPointNetwork", "Output", "Step", "read_fixed_point", "write_fixed_point"]
