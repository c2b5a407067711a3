"""FIT: the trace of the empirical Fisher information times the power of the quantization noise."""

from __future__ import annotations

from typing import ClassVar

from baselines.planned import ProbedOptions, ProbedSearcher
from baselines.prediction import Prediction, best_policy
from suite.contract.space import Policy


class FIT(ProbedSearcher[ProbedOptions]):
    """FIT: least sum of Fisher traces times quantization noise, of weights and inputs, within the budget.

    The loss of a layer at some bits is the trace of its empirical Fisher information, estimated by the mean squared length
    of single rows' gradients, times the mean squared change that quantization makes: ``E||dL/dW||^2 * ||dW||^2 / n`` for its
    ``n`` weights, and the same for its inputs. One backward pass gives all traces.

    The paper models the noise as uniform within a step, ``(range / (2^bits - 1))^2 / 12``; here it is what the deployed
    quantizer changes, which clips. The paper correlates the metric with accuracy and leaves the choice of bits open;
    here an integer program chooses them.

    References:
        Zandonati, Pol, Pierini, Sirkin and Kopetz, FIT: A metric for model sensitivity, ICLR 2023 (arXiv 2210.08502).
    """

    Options: ClassVar[type] = ProbedOptions

    def _predict(self) -> Prediction:
        weights, inputs = self.probes.squared_gradients()
        return Prediction(
            self.problem.space,
            weights[:, None] * self.probes.perturbations("weight"),
            inputs[:, None] * self.probes.perturbations("activation"),
        )

    def _plan(self, prediction: Prediction) -> Policy:
        return best_policy(self.problem, prediction)
