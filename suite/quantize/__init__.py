"""Quantizers, their calibration, and quantized networks, frozen or trainable."""

from suite.quantize.batch_norm import recalibrate_batch_norm
from suite.quantize.calibration import Calibration, calibrate
from suite.quantize.network import QuantizedNetwork
from suite.quantize.trainable import SCHEMES, Scheme, TrainableNetwork

__all__ = [
    "SCHEMES",
    "Calibration",
    "QuantizedNetwork",
    "Scheme",
    "TrainableNetwork",
    "calibrate",
    "recalibrate_batch_norm",
]
