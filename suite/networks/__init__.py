"""Networks: residual networks for small images and torchvision's, their layers, and their checkpoints."""

from suite.networks.build import NETWORKS, build_network, initialize, network_layers
from suite.networks.checkpoints import (
    check_checkpoint,
    checkpoint_sha256,
    finished_record,
    load_checkpoint,
    network_sha256,
    save_checkpoint,
    shipped_checkpoints,
    shipped_sigmas,
)
from suite.networks.layers import shortcut_ties, trace_layers, untraced_layers
from suite.networks.normalization import Normalization
from suite.networks.own import Unquantized, build_own, check_layers, count_outputs, find_unquantized, is_own

__all__ = [
    "NETWORKS",
    "Normalization",
    "Unquantized",
    "build_network",
    "build_own",
    "check_checkpoint",
    "check_layers",
    "checkpoint_sha256",
    "count_outputs",
    "find_unquantized",
    "finished_record",
    "initialize",
    "is_own",
    "load_checkpoint",
    "network_layers",
    "network_sha256",
    "save_checkpoint",
    "shipped_checkpoints",
    "shipped_sigmas",
    "shortcut_ties",
    "trace_layers",
    "untraced_layers",
]
