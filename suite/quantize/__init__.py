"""Quantizers, their calibration, and quantized networks, frozen or trainable."""

from suite.quantize.batch_norm import Statistics, has_batch_norm, recalibrate_batch_norm, update_statistics
from suite.quantize.calibration import Calibration, calibrate
from suite.quantize.engine import (
    ENGINES,
    EXACT_ENGINES,
    RANGED_ENGINES,
    Engine,
    check_engine,
    execute,
    execute_float,
    missing_packages,
)
from suite.quantize.network import QuantizedNetwork
from suite.quantize.trainable import SCHEMES, Scheme, TrainableNetwork

__all__ = [
    "ENGINES",
    "EXACT_ENGINES",
    "RANGED_ENGINES",
    "SCHEMES",
    "Calibration",
    "Engine",
    "QuantizedNetwork",
    "Scheme",
    "Statistics",
    "TrainableNetwork",
    "calibrate",
    "check_engine",
    "execute",
    "execute_float",
    "has_batch_norm",
    "missing_packages",
    "recalibrate_batch_norm",
    "update_statistics",
]
