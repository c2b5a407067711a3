"""Integer networks executed by ONNX Runtime."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    import onnx


class OnnxNetwork(nn.Module):
    """An ONNX model, called like a network.

    Args:
        model: The model, as bytes or as :func:`.onnx_graph.onnx_model` makes it.
        threads: Threads of one call.
    """

    def __init__(self, model: onnx.ModelProto | bytes, threads: int = 1) -> None:
        import onnxruntime

        super().__init__()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        content = model if isinstance(model, bytes) else model.SerializeToString()
        self._session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        """Images to logits; shapes as the model says."""
        (logits,) = self._session.run(["logits"], {"images": images.detach().cpu().contiguous().numpy()})
        return torch.from_numpy(logits).to(images.device)
