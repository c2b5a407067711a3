"""What a descent of bit widths asks of a network, a mini-batch at a time."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


class BitTask(ABC):
    """The loss of a network whose bit widths are being learned; each call takes the next mini-batch.

    Where weights are trained, each call also makes an optimizer step on what it measures first.
    """

    @abstractmethod
    def losses(self, chosen: Sequence[NDArray[np.int64]]) -> NDArray[np.float64]:
        """The losses of a mini-batch at several policies; weights are trained at the first one, afterwards.

        Args:
            chosen: Policies, each as an index into the choices for every variable of the space.
        """

    @abstractmethod
    def slopes(self, bits: NDArray[np.float64]) -> NDArray[np.float64]:
        """The derivative of a mini-batch's loss by the bits of each variable, the quantized values interpolated between choices.

        Args:
            bits: Real bit widths, shape ``(variables,)``, from the least choice to the greatest.
        """

    @abstractmethod
    def noisy_slopes(self, bits: NDArray[np.float64]) -> NDArray[np.float64]:
        """The derivative of a mini-batch's loss by the bits of each variable, noise in place of rounding.

        Args:
            bits: Choices, shape ``(variables,)``.
        """
