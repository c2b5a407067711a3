"""Float networks as ONNX graphs, converted by torch."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor, nn

from suite.errors import BitcertError
from suite.quantize.integer import OnnxNetwork

_TOLERANCE = 1e-3  # relative to the largest logit


@torch.no_grad()
def float_network(network: nn.Module, images: Tensor, threads: int) -> OnnxNetwork:
    """A float network executed by ONNX Runtime: the same function in 32-bit floating point, with sums in another order.

    Args:
        network: In evaluation mode, on the CPU; batch norms are folded by the conversion.
        images: A few images to trace and check it with, shape ``(at least 2, C, H, W)``.
        threads: Threads of one call.

    Raises:
        BitcertError: If torch cannot convert the network, or what it makes is another function.
    """
    batch = torch.export.Dim("batch", min=1)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about networks that are torch's own
            program = torch.onnx.export(
                network,
                (images,),
                dynamo=True,
                dynamic_shapes=({0: batch},),
                input_names=["images"],
                output_names=["logits"],
                verbose=False,
            )
    except Exception as error:  # the exporter fails in many ways
        reason = str(error).strip().partition("\n")[0]
        raise BitcertError(
            f"torch cannot convert the float network to ONNX ({type(error).__name__}: {reason}); use the engine torch"
        ) from error
    assert program is not None
    executed = OnnxNetwork(program.model_proto, threads, integer=False)
    for some in (images, images[:1]):
        expected = network(some)
        worst = float((executed(some) - expected).abs().max() / expected.abs().max())
        if not worst < _TOLERANCE:
            raise BitcertError(
                f"converted to ONNX, the float network gives logits that differ by {worst:.1e} of the largest; use the engine torch"
            )
    return executed
