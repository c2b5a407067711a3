"""Networks executed by ONNX Runtime."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    import onnx


class OnnxNetwork(nn.Module):
    """An ONNX model, called like a network.

    Args:
        model: The model, or its bytes; input ``images``, output ``logits``.
        threads: Threads of one call.
        integer: Whether it computes with integers, so that an image has the same logits in every batch.
    """

    def __init__(self, model: onnx.ModelProto | bytes, threads: int = 1, *, integer: bool = True) -> None:
        import onnxruntime

        super().__init__()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        self._content = model if isinstance(model, bytes) else model.SerializeToString()
        self._threads, self.integer = threads, integer
        self._session = onnxruntime.InferenceSession(self._content, options, providers=["CPUExecutionProvider"])
        self.eval()

    def __reduce__(self) -> tuple[Callable[..., OnnxNetwork], tuple[bytes, int]]:
        """Sessions cannot be copied; copies and other processes start their own."""
        return functools.partial(OnnxNetwork, integer=self.integer), (self._content, self._threads)

    @property
    def sha256(self) -> str:
        """SHA-256 of the model's bytes."""
        return hashlib.sha256(self._content).hexdigest()

    def forward(self, images: Tensor) -> Tensor:
        """Images to logits; shapes as the model says."""
        (logits,) = self._session.run(["logits"], {"images": images.detach().cpu().contiguous().numpy()})
        return torch.from_numpy(logits).to(images.device)
