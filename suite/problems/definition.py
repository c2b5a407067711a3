"""The definition of a named problem with a network and images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from suite.certify.exam import ExamSettings
from suite.contract.per_mac import TERNARY, PerMac
from suite.contract.space import DEFAULT_CHOICES, Pin
from suite.contract.trial import Fidelity
from suite.quantize.engine import Engine
from suite.quantize.states import StateLevels


@dataclass(frozen=True, slots=True)
class Definition:
    """A named problem.

    Attributes:
        name: Registered name.
        summary: One line for ``bitcert list``.
        network: Name of the architecture.
        dataset: Name of the dataset.
        shape: Channels, height and width of an image.
        classes: Outputs of the network.
        sigma: Default noise level.
        budget: Default budget.
        radii: Radii at which certified accuracy is reported, ascending.
        fidelity: Default fidelity of a search.
        exam: Default exam.
        certify: Default certifier of a search.
        engine: Default engine.
        choices: Bit widths to choose from. Weights are binary at 1 bit and ternary at 2 bits, inputs binary at 1 bit.
        four_level_weights: Whether weights of 2 bits have the four levels -2, -1, 0, 1 rather than three.
        state_levels: What the states of spiking networks are rounded to, see :mod:`suite.quantize.states`.
        pins: Fixed bits of layers by name; by default the first and the last layer have 8/8.
        ternary_inputs: Whether inputs of 2 bits have three levels rather than four, so that a MAC with ternary weights takes two
            bit operations rather than four.
        tie_weight_activation: Whether a layer's weights and inputs share their bit width.
        tie_shortcuts: Whether a block's shortcut shares its precision with the block's first convolution.
        batch: Rows per batch.
        threads: Threads of one evaluation; with ``batch`` fixed so that scores are equal, not nearly equal, everywhere.
        calibration_images: Images that quantizers are calibrated on.
        statistics_images: Training images that the statistics of quantized networks are measured on.
        trained_as: Problem whose checkpoint this one shares; its own if None.
        based_on: Problem into which the user's network was put, if any.
        unquantized: The parts of the user's network that stay in floating point, in words.
    """

    name: str
    summary: str
    network: str
    dataset: str
    shape: tuple[int, int, int]
    classes: int
    sigma: float = 0.25
    budget: str = "w3a3"
    radii: tuple[float, ...] = (0.0, 0.25, 0.5, 0.75, 1.0)
    fidelity: Fidelity = field(default_factory=Fidelity)
    exam: ExamSettings = field(default_factory=ExamSettings)
    certify: str = "ranking"
    engine: Engine = "torch"
    choices: tuple[int, ...] = DEFAULT_CHOICES
    four_level_weights: bool = False
    state_levels: StateLevels = "integers"
    pins: Mapping[str, Pin] | None = None
    ternary_inputs: bool = False
    tie_weight_activation: bool = False
    tie_shortcuts: bool = False
    batch: int = 250
    threads: int = 1
    calibration_images: int = 100
    statistics_images: int = 250
    trained_as: str | None = None
    based_on: str | None = None
    unquantized: str = ""

    @property
    def per_mac(self) -> PerMac | None:
        """Bit operations of one MAC; None for weight bits x activation bits."""
        return TERNARY if self.ternary_inputs else None
