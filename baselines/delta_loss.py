"""DeltaLoss: first-order loss terms at the quantized network, as AutoRound chooses its schemes."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from baselines.planned import ProbedOptions, ProbedSearcher
from baselines.prediction import Prediction, best_policy
from suite.contract.space import Policy


class DeltaLoss(ProbedSearcher[ProbedOptions]):
    """AutoRound's DeltaLoss: least sum of first-order loss terms at the quantized network within the budget.

    For every bit width the whole network is quantized to it, and one backward pass gives each layer's scores: the sums of
    ``|dL/dQ(W) * (W - Q(W))|`` over its weights and of ``|dL/dQ(x) * (x - Q(x))|`` over its inputs. The gradient is taken
    where quantization has already moved the network, and a first-order term does not vanish there as it does at a minimum.
    Pinned layers stay at their bits.

    Three things differ from the release. It chooses among a few formats of weights and inputs together, by dynamic
    programming with a beam; here weights and inputs are chosen separately, and the integer program is exact. It adds up
    absolute values batch by batch, and averages those of inputs alone, so that its sum depends on the number of batches;
    here the gradient by the weights is that of all images, and inputs count on average. Its layers are those of language
    models, whose head it treats apart.

    References:
        AutoRound, ``auto_scheme/delta_loss.py``, https://github.com/intel/auto-round; Cheng et al., Optimize weight rounding
        via signed gradient descent for the quantization of LLMs, Findings of EMNLP 2024.
    """

    Options: ClassVar[type] = ProbedOptions

    def _predict(self) -> Prediction:
        space = self.problem.space
        terms = [self.probes.first_order(space.uniform(bits)) for bits in space.choices]
        return Prediction(space, *np.stack(terms, axis=2))

    def _plan(self, prediction: Prediction) -> Policy:
        return best_policy(self.problem, prediction)
