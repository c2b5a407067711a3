"""Multi-fidelity: cheap measurements that a policy must survive before an expensive one (asynchronous successive halving)."""

from __future__ import annotations

import itertools
import math
import re
from dataclasses import dataclass
from types import SimpleNamespace

from suite.contract.trial import Fidelity
from suite.errors import BitcertError


@dataclass(frozen=True, slots=True)
class Rungs:
    """Fidelities below that of the search, from the cheapest up.

    Attributes:
        lower: What a policy is measured at first; empty for no rungs.
        reduction: Of the policies that reach a rung, about one in this many goes on.
    """

    lower: tuple[Fidelity, ...] = ()
    reduction: float = 3.0

    def __post_init__(self) -> None:
        if not 2 <= self.reduction < math.inf:
            raise BitcertError(f"a reduction must be at least 2, got {self.reduction}")

    @classmethod
    def parse(cls, text: str, reduction: float = 3.0, finetune_steps: int = 0) -> Rungs:
        """Read ``30x16,60x32+20``: images x noise samples, finetuning steps after a plus; by default ``finetune_steps``."""
        lower = []
        for part in text.split(","):
            found = re.fullmatch(r"(\d{1,9})x(\d{1,9})(?:\+(\d{1,9}))?", part.strip(), re.ASCII)
            if found is None:
                raise BitcertError(f"a rung is written as IMAGESxNOISE or IMAGESxNOISE+STEPS, got {part!r}")
            lower.append(Fidelity(int(found[1]), int(found[2]), int(found[3] or finetune_steps)))
        return cls(tuple(lower), reduction)

    def up_to(self, top: Fidelity) -> tuple[Fidelity, ...]:
        """All rungs, the fidelity of the search at the top.

        Raises:
            BitcertError: If a rung has fewer images, samples or steps than the one below, or the same.
        """
        ladder = (*self.lower, top)
        for below, above in itertools.pairwise(ladder):
            pairs = [(getattr(below, name), getattr(above, name)) for name in ("images", "noise", "finetune_steps")]
            if below == above or any(low > high for low, high in pairs):
                raise BitcertError(f"rungs must ascend to the fidelity of the search, got {below} before {above}")
        return ladder


NO_RUNGS = Rungs()


class Halving:
    """Ray Tune's ASHA scheduler, asked which trials go on; the same scores in the same order give the same decisions.

    Args:
        rungs: How many there are, the top one included.
        reduction: About one in this many goes on.

    References:
        Li et al., A system for massively parallel hyperparameter tuning, MLSys 2020 (arXiv 1810.05934).
    """

    def __init__(self, rungs: int, reduction: float) -> None:
        from suite.execute.ray_settings import apply_settings

        apply_settings()
        from ray.tune.schedulers import AsyncHyperBandScheduler

        self._rungs, self._reduction = rungs, reduction
        # Rung k is at time reduction^k; the time of the end lies between the last rung and the one that would follow.
        self._judge = AsyncHyperBandScheduler(
            time_attr="time",
            metric="score",
            mode="max",
            grace_period=1,
            max_t=1.5 * reduction ** (rungs - 1),  # type: ignore[arg-type]  # an integer is expected, any number will do
            reduction_factor=reduction,
        )

    def goes_on(self, number: int, rung: int, score: float) -> bool:
        """Whether a trial that has this score at a rung is measured at the next one."""
        from ray.tune.schedulers import TrialScheduler

        trial = SimpleNamespace(trial_id=str(number))
        if rung == 0:
            self._judge.on_trial_add(None, trial)  # type: ignore[arg-type]  # it needs no more than the id
        time = self._reduction**rung
        verdict = self._judge.on_trial_result(None, trial, {"time": time, "score": score})  # type: ignore[arg-type]
        return verdict == TrialScheduler.CONTINUE and rung + 1 < self._rungs
