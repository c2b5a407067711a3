"""Evaluations on the workers of a Ray cluster, through Ray Tune.

One Tune experiment drives any number of searches. Workers are long-lived: each receives the problem once through Ray's
object store and then evaluates trial after trial (class ``Trainable`` with ``reuse_actors``), so that no process starts
for a trial. Tune's own experiment files go to a temporary folder; the record is bitcert's journals.
"""

from __future__ import annotations

import importlib
import json
import logging
import math
import os
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import asdict, replace
from typing import Any

from suite.execute.ray_settings import apply_settings

apply_settings()

import ray
from ray import tune
from ray.tune.result import DONE
from ray.tune.search import Searcher as TuneSearcher

from suite.contract.problem import Problem
from suite.contract.space import Policy
from suite.contract.trial import Fidelity, Metrics, Trial
from suite.errors import BitcertError
from suite.execute.evaluation import evaluate_trial
from suite.execute.executor import Loop, Resources
from suite.execute.gathering import Gathering

_LONGEST_WAIT = 20.0
"""Seconds that a worker waits for the others to start."""

_FAILURE = ("failure", "wasted", "retryable")

_LOGGERS: dict[str, tuple[str, str, dict[str, str]]] = {
    "tensorboard": ("ray.tune.logger", "TBXLoggerCallback", {}),
    "mlflow": ("ray.air.integrations.mlflow", "MLflowLoggerCallback", {"experiment_name": "bitcert"}),
    "wandb": ("ray.air.integrations.wandb", "WandbLoggerCallback", {"project": "bitcert"}),
}


class PolicyTrainable(tune.Trainable):
    """A worker: holds the problems of all searches, evaluates one trial a step."""

    def setup(  # type: ignore[override]
        self, config: dict[str, Any], problems: Sequence[Problem], gathering: Any, workers: int
    ) -> None:
        """Take over the problems, once in the worker's life, and wait for the other workers.

        When a trial ends while another worker is still starting for a waiting trial, Tune gives that trial to the worker
        that is free and takes the start back: short trials would then all stay on one worker.
        """
        self._problems = problems
        self._config = config
        started, deadline = ray.get(gathering.add.remote(1)), time.monotonic() + _LONGEST_WAIT
        while started < workers and time.monotonic() < deadline:
            time.sleep(0.05)
            started = ray.get(gathering.add.remote(0))

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Go on with another trial in the same process."""
        self._config = new_config
        return True

    def step(self) -> dict[str, Any]:
        """Evaluate the trial of the current configuration."""
        problem = self._problems[self._config["problem"]]
        trial = evaluate_trial(problem, _trial_of(self._config))
        result = {"metrics": None, DONE: True, **{name: getattr(trial, name) for name in _FAILURE}}
        if trial.metrics is not None:
            result |= _curves(problem, trial.metrics) | {"metrics": json.dumps(trial.metrics.to_dict())}
        return result


class LoopSearcher(TuneSearcher):
    """Shows many searches to Tune as one search algorithm.

    The loop that has spent least goes next, so that all progress alike; a loop whose own pending trials have to come
    first is skipped.
    """

    def __init__(self, loops: Sequence[Loop], problems: Sequence[Problem]) -> None:
        super().__init__(metric=None, mode=None)
        self._loops = list(loops)
        self._problems = {id(problem): position for position, problem in enumerate(problems)}
        self._under_way: dict[str, tuple[Loop, Trial]] = {}

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:  # type: ignore[override]
        """The next trial as a configuration; None if results must come first; FINISHED when all loops are."""
        for loop in sorted(self._loops, key=lambda loop: loop.spend):
            trial = loop.propose()
            if trial is not None:
                self._under_way[trial_id] = loop, trial
                whose = {"searcher": loop.searcher.name, "searcher_seed": loop.searcher.seed}
                return {"problem": self._problems[id(loop.problem)], **whose, **_config_of(trial)}
        finished: str = TuneSearcher.FINISHED
        return finished if all(loop.finished for loop in self._loops) else None

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Hand the result to the loop that proposed the trial."""
        loop, trial = self._under_way.pop(trial_id)
        if error or result is None:
            loop.complete(replace(trial, failure="the worker died or raised an error outside the evaluation"))
        else:
            loop.complete(_with_result(trial, result))

    def __getstate__(self) -> dict[str, Any]:
        """Nothing of it enters Tune's own files: the journals are the record."""
        return {}

    def save(self, checkpoint_path: str) -> None:
        """Nothing to save: the journals are the record."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing to restore: runs are resumed from their journals."""


class RayExecutor:
    """Runs evaluations and exams on Ray workers.

    Args:
        resources: Workers, CPUs and GPUs of one evaluation, and the cluster.

    Raises:
        BitcertError: If the cluster cannot be reached, an evaluation asks for more than it has, or a logger is not installed.
    """

    def __init__(self, resources: Resources) -> None:
        self._resources = resources
        self._callbacks = [_logger(name) for name in resources.loggers]
        connect(resources)
        wanted = {name: each for name, each in (("CPU", resources.cpus), ("GPU", resources.gpus)) if each}
        available = {name: ray.cluster_resources().get(name, 0) for name in wanted}
        for name, each in wanted.items():
            if each > available[name]:
                raise BitcertError(
                    f"an evaluation asks for {each:g} {name}s, the Ray cluster has {available[name]:g}; "
                    "ask for less or add nodes"
                )
        self._fitting = min(int(available[name] // each) for name, each in wanted.items())
        # Tune stops a worker that finishes while no trial is waiting. By default one trial waits for all workers together,
        # and of two workers that finish at once one would be lost; so several wait for each.
        os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = str(max(4, 2 * self._fitting))

    def run(self, loops: Sequence[Loop]) -> None:
        """Drive all loops until they are finished."""
        at_once = sum(loop.parallel for loop in loops if not loop.finished)
        workers = min(self._fitting, at_once, self._resources.workers or at_once)
        problems = list({id(loop.problem): loop.problem for loop in loops}.values())
        gathering = ray.remote(Gathering).options(num_cpus=0).remote()
        trainable = tune.with_parameters(PolicyTrainable, problems=problems, gathering=gathering, workers=workers)
        logs = self._resources.log_directory if self._resources.loggers else None
        with nullcontext(logs.resolve()) if logs else tempfile.TemporaryDirectory(prefix="bitcert-tune-") as folder:
            tune.Tuner(
                tune.with_resources(trainable, {"cpu": self._resources.cpus, "gpu": self._resources.gpus}),
                tune_config=tune.TuneConfig(
                    search_alg=LoopSearcher(loops, problems),
                    num_samples=-1,
                    reuse_actors=True,
                    max_concurrent_trials=self._resources.workers if self._resources.address else None,
                ),
                run_config=tune.RunConfig(
                    storage_path=str(folder),
                    name="search",
                    verbose=0,
                    callbacks=self._callbacks,
                    checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
                ),
            ).fit()
        if unfinished := sum(not loop.finished for loop in loops):
            raise RuntimeError(f"Ray Tune ended with {unfinished} searches unfinished; rerun the command to resume")

    def map(self, function: Callable[..., Any], shared: Any, inputs: Sequence[Any]) -> Iterator[tuple[int, Any]]:
        """Yield ``(position, function(shared, input))`` as they finish; ``shared`` is sent once."""
        remote = ray.remote(num_cpus=self._resources.cpus, num_gpus=self._resources.gpus)(function)
        placed = ray.put(shared)
        running = {remote.remote(placed, item): position for position, item in enumerate(inputs)}
        while running:
            (done,), _ = ray.wait(list(running))
            try:
                result = ray.get(done)
            except ray.exceptions.RayTaskError as error:
                told = isinstance(error.cause, BitcertError | OSError)  # as if there were no workers
                raise (error.cause if told else error) from None
            yield running.pop(done), result


def connect(resources: Resources) -> None:
    """Join the cluster at ``address``, or start one on this machine, just large enough for the workers if these are given.

    Starting one is attempted three times: on a busy machine Ray gives up when one of its daemons is slow to come up.
    """
    if ray.is_initialized():
        return
    address = resources.address
    cpus = math.ceil(resources.workers * resources.cpus) if resources.workers and not address else None
    for attempts_left in (2, 1, 0):
        try:
            with warnings.catch_warnings(action="ignore"):
                ray.init(
                    address=address or "local",
                    num_cpus=cpus,
                    include_dashboard=None if address else False,
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                )
            return
        except Exception as error:
            ray.shutdown()
            if address is not None or not attempts_left:
                reason = str(error).splitlines()[0]
                raise BitcertError(f"no Ray cluster at {address or 'this machine'}: {reason}") from error


def _logger(name: str) -> tune.Callback:
    """One of Tune's own callbacks; each reads its settings from the environment variables of its software."""
    module, callback, settings = _LOGGERS[name]
    try:
        made: tune.Callback = getattr(importlib.import_module(module), callback)(**settings)
    except (ImportError, RuntimeError) as error:
        raise BitcertError(f"metrics cannot go to {name}: {error}; install it beside bitcert") from error
    return made


def _curves(problem: Problem, metrics: Metrics) -> dict[str, float]:
    """What loggers draw."""
    measured = {"acr": metrics.acr, "clean_accuracy": metrics.clean_accuracy, **metrics.values}
    return {
        "score": problem.objective.score(metrics),
        **{name: float(cost) for name, cost in {"bops": metrics.bops, **metrics.costs}.items()},
        "evaluation_seconds": metrics.seconds,
        **{name: value for name, value in measured.items() if value is not None},
        **{f"certified_at_{radius:g}": share for radius, share in metrics.certified.items()},
    }


def _config_of(trial: Trial) -> dict[str, Any]:
    return {"number": trial.number, "policy": trial.policy.to_json(), **asdict(trial.fidelity), "seed": trial.seed}


def _trial_of(config: dict[str, Any]) -> Trial:
    fidelity = Fidelity(config["images"], config["noise"], config["finetune_steps"])
    return Trial(config["number"], Policy.from_json(config["policy"]), fidelity, config["seed"])


def _with_result(trial: Trial, result: dict[str, Any]) -> Trial:
    metrics = None if result["metrics"] is None else Metrics.from_dict(json.loads(result["metrics"]))
    return replace(trial, metrics=metrics, **{name: result[name] for name in _FAILURE})
