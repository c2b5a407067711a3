"""Quantizers, their calibration, and quantized networks, frozen or trainable."""

from suite.quantize.batch_norm import Statistics, has_batch_norm, recalibrate_batch_norm, update_statistics
from suite.quantize.calibration import Calibration, calibrate
from suite.quantize.network import QuantizedNetwork
from suite.quantize.trainable import SCHEMES, Scheme, TrainableNetwork

__all__ = [
    "SCHEMES",
    "Calibration",
    "QuantizedNetwork",
    "Scheme",
    "Statistics",
    "TrainableNetwork",
    "calibrate",
    "has_batch_norm",
    "recalibrate_batch_norm",
    "update_statistics",
]
