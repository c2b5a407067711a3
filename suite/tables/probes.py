"""Probes that are recorded on a network, and answered from the record."""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from suite.contract.bit_settings import BitSettings
from suite.contract.probes import Derivatives, Probes, ProbeSettings, Quality
from suite.contract.problem import Meter
from suite.contract.space import Part, Policy, Precision
from suite.errors import BitcertError

PROBES = ".probes.json"
"""Ending of the file with what probes answered, beside the table."""
Record = dict[str, dict[str, Any]]
"""What probes answered, JSON-ready, by :func:`_key`: ``passes`` charged, and the ``answer``."""


class _KeyedProbes(Probes):
    """Probes each of whose calls has a key, under which its answer is kept."""

    def __init__(self, settings: ProbeSettings) -> None:
        self._settings = settings

    @abstractmethod
    def _answer(self, key: str, make: Callable[[Probes], Any]) -> Any:
        """The JSON-ready answer to a call, which ``make`` would compute."""

    def _key(self, name: str, **arguments: Any) -> str:
        return json.dumps([name, asdict(self._settings), arguments], sort_keys=True)

    def _array(self, key: str, make: Callable[[Probes], NDArray[np.float64]]) -> NDArray[np.float64]:
        return np.array(self._answer(key, lambda probes: make(probes).tolist()), dtype=np.float64)

    def measure(self, policy: Policy) -> Quality:
        """The loss at a policy."""
        key = self._key("measure", policy=policy.to_dict())
        return Quality(**self._answer(key, lambda probes: asdict(probes.measure(policy))))

    def perturbations(self, part: Part) -> NDArray[np.float64]:
        """What the quantizer changes."""
        return self._array(self._key("perturbations", part=part), lambda probes: probes.perturbations(part))

    def first_order(self, policy: Policy) -> NDArray[np.float64]:
        """First-order terms at a policy."""
        return self._array(self._key("first_order", policy=policy.to_dict()), lambda probes: probes.first_order(policy))

    def squared_gradients(self) -> NDArray[np.float64]:
        """Mean squared derivatives."""
        return self._array(self._key("squared_gradients"), lambda probes: probes.squared_gradients())

    def output_changes(self, precisions: Sequence[Precision]) -> NDArray[np.float64]:
        """Changes of outputs, weighted."""
        key = self._key("output_changes", precisions=[list(precision) for precision in precisions])
        return self._array(key, lambda probes: probes.output_changes(precisions))

    def learned_steps(
        self, epochs: int, images: int | None = None, *, freeze_weights: bool = False
    ) -> NDArray[np.float64]:
        """Learned quantizer steps."""
        key = self._key("learned_steps", epochs=epochs, images=images, freeze_weights=freeze_weights)
        return self._array(key, lambda probes: probes.learned_steps(epochs, images, freeze_weights=freeze_weights))

    def learned_bits(self, settings: BitSettings) -> NDArray[np.float64]:
        """Learned bit widths."""
        options = {field.name: getattr(settings, field.name) for field in fields(settings) if field.name != "budget"}
        key = self._key(
            "learned_bits", descent=type(settings).__name__, budget=settings.budget.to_dict(), options=options
        )
        return self._array(key, lambda probes: probes.learned_bits(settings))

    def remembered(
        self, what: str, make: Callable[[Probes], Mapping[str, NDArray[Any]]]
    ) -> dict[str, NDArray[np.float64]]:
        """What was made of derivatives."""
        found = self._answer(
            self._key("remembered", what=what),
            lambda probes: {name: value.tolist() for name, value in make(probes).items()},
        )
        return {name: np.array(value, dtype=np.float64) for name, value in found.items()}


class RecordingProbes(_KeyedProbes):
    """Probes of a network that are recorded.

    Args:
        probes: Of the network.
        settings: Theirs.
        meter: The problem's.
        record: Where answers go, and what was charged for them.
    """

    def __init__(self, probes: Probes, settings: ProbeSettings, meter: Meter, record: Record) -> None:
        super().__init__(settings)
        self._probes, self._meter, self._record = probes, meter, record

    def _answer(self, key: str, make: Callable[[Probes], Any]) -> Any:
        if key not in self._record:
            before = self._meter.forward_passes
            answer = make(self._probes)
            self._record[key] = {"passes": self._meter.forward_passes - before, "answer": answer}
        return self._record[key]["answer"]

    def derivatives(self, part: Part) -> Derivatives:
        """Of the network; nothing of them is recorded but what is made of them by :meth:`remembered`."""
        return self._probes.derivatives(part)


class RecordedProbes(_KeyedProbes):
    """Probes answered from a record, and charged as they were on the network.

    Args:
        settings: Those asked for; of the recorded seeds, that at the asked seed's remainder is taken.
        seeds: Seeds of recorded probes, ascending.
        meter: The problem's.
        record: What :class:`RecordingProbes` wrote.
    """

    def __init__(self, settings: ProbeSettings, seeds: Sequence[int], meter: Meter, record: Mapping[str, Any]) -> None:
        if not seeds:
            raise BitcertError("the table has no probes; sensitivity methods need them")
        super().__init__(replace(settings, seed=seeds[settings.seed % len(seeds)]))
        self._meter, self._record = meter, record

    def _answer(self, key: str, make: Callable[[Probes], Any]) -> Any:
        if key not in self._record:
            raise BitcertError(
                f"the table has no answer to the probe {key[:160]}; methods run with the recorded options"
            )
        found = self._record[key]
        self._meter.charge(found["passes"])
        return found["answer"]

    def derivatives(self, part: Part) -> Derivatives:
        """There are none."""
        raise BitcertError("a table has no derivatives, only what recorded methods made of them")
