"""The loss around a post-step's captures: the plane through three of them, quantized everywhere before it is measured."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, TypeAdapter

from suite.certify import Setup, Task
from suite.certify.ranking import Ranking
from suite.contract.problem import Problem
from suite.contract.space import Policy
from suite.contract.trial import Fidelity
from suite.errors import BitcertError
from suite.kept import KeptState, remove_kept
from suite.protocols import PostStep
from suite.protocols.sqwa import SQWA
from suite.protocols.training import training_of
from suite.quantize import TrainableNetwork, recalibrate_batch_norm
from suite.run.events import PolicyField, Settings
from suite.run.journal import JOURNAL_VERSION, Event, Journal
from suite.run.provenance import software
from suite.store import Store
from suite.train.sqwa import Average, State, Training, capture, load_state, mean_loss, resolve_steps, sqwa
from suite.workbench import Workbench, bench_problem

MODELS_FILE = "models.safetensors"
CAPTURES = ("capture 1", "capture 2", "capture 3")
_MARGIN = 0.35
_QUANTIZERS = ("lsq", "fixed")

Point = NDArray[np.float64]


class PlaneStart(Event):
    """The first line of a plane's journal: which plane this is."""

    event: Literal["plane"] = "plane"
    version: Literal[3]
    problem: Settings
    policy: PolicyField
    post_step: Settings
    size: int
    fidelity: Fidelity
    software: Settings


class PointMeasured(Event):
    """A mark, or the point of the grid at ``row,column``, has been measured."""

    event: Literal["point"] = "point"
    name: str
    loss: float
    acr: float


PlaneEvent = PlaneStart | PointMeasured
PLANE_EVENTS: TypeAdapter[PlaneEvent] = TypeAdapter(Annotated[PlaneEvent, Field(discriminator="event")])


@dataclass(frozen=True, slots=True)
class Mark:
    """A network that the post-step met, and where it lies.

    Attributes:
        name: ``"capture 1"`` to ``"capture 3"``, ``"average"`` or ``"finetuned"``.
        u, v: Its projection onto the plane.
        distance: Its distance from the plane.
        loss: Mean cross-entropy of the network itself, not of its projection.
        acr: Its estimated average certified radius.
    """

    name: str
    u: float
    v: float
    distance: float
    loss: float
    acr: float


@dataclass(frozen=True, slots=True, eq=False)
class LossPlane:
    """Losses and certified radii on a grid in the space of quantized weights.

    Attributes:
        u: First coordinates, shape ``(size,)``: along the line from the first capture to the second.
        v: Second coordinates, shape ``(size,)``: at right angles to it, towards the third.
        loss: Mean cross-entropy on noisy training images, shape ``(size, size)``, rows by ``v``.
        acr: Estimated average certified radius on search images, same shape.
        marks: Captures, average and finetuned network.
        provenance: Problem, policy, post-step, fidelity, versions, JSON-ready.
    """

    u: Point
    v: Point
    loss: NDArray[np.float64]
    acr: NDArray[np.float64]
    marks: tuple[Mark, ...]
    provenance: Mapping[str, Any]


@dataclass(frozen=True, slots=True, eq=False)
class Plane:
    """The plane through three points of a space of many dimensions.

    Attributes:
        origin: The first point.
        axes: Orthonormal directions, shape ``(2, dimensions)``.
        corners: Coordinates of the three points, shape ``(3, 2)``.
    """

    origin: Point
    axes: Point
    corners: Point

    @classmethod
    def through(cls, points: Sequence[Point]) -> Plane:
        """Lay a plane through three points.

        Raises:
            BitcertError: If they lie on a line.
        """
        first, second = (point - points[0] for point in points[1:])
        length = float(np.linalg.norm(first))
        along = first / (length or 1.0)
        across = second - (second @ along) * along
        height = float(np.linalg.norm(across))
        if length == 0 or height <= 1e-6 * length:
            raise BitcertError("the three captures lie on one line; train longer cycles or at a higher rate")
        axes = np.stack([along, across / height])
        corners = np.array([[0.0, 0.0], [length, 0.0], [second @ along, height]])
        return cls(points[0], axes, corners)

    def project(self, point: Point) -> tuple[float, float, float]:
        """Coordinates of the nearest point of the plane, and the distance to it."""
        u, v = self.axes @ (point - self.origin)
        distance = np.linalg.norm(point - self.origin - u * self.axes[0] - v * self.axes[1])
        return float(u), float(v), float(distance)

    def shares(self, u: float, v: float) -> tuple[float, float, float]:
        """Barycentric coordinates: how much of each corner makes up the point; they sum to 1."""
        system = np.vstack([self.corners.T, np.ones(3)])
        first, second, third = np.linalg.solve(system, np.array([u, v, 1.0]))
        return float(first), float(second), float(third)


def map_plane(
    problem: Problem,
    policy: Policy,
    directory: Path,
    *,
    post_step: PostStep | None = None,
    size: int = 15,
    fidelity: Fidelity | None = None,
    on_start: Callable[[], object] = lambda: None,
    on_step: Callable[[int], None] | None = None,
    on_point: Callable[[int], None] = lambda _: None,
) -> LossPlane:
    """Run SQWA for a policy and measure the plane through its first, middle and last capture.

    At every point the weights are the mixture of the captures' quantized weights, quantized with least-squares steps as
    SQWA quantizes its average; what is not quantized is mixed alike, steps of the inputs geometrically; batch norms are
    recomputed. The corners are therefore the captures themselves. A directory that holds the same plane is resumed.

    Args:
        problem: Where the network and the images come from.
        policy: A feasible policy.
        directory: Where models and measurements go.
        post_step: SQWA with at least three captures; three if None, so that their average lies in the plane.
        size: Points along each axis.
        fidelity: Search images and noise samples of the certified radii; the problem's default if None.
        on_start: Called once the directory is known to hold this plane.
        on_step: Called with the number of finished optimizer steps.
        on_point: Called with the number of measured points and marks.

    Raises:
        BitcertError: If the post-step has no three captures of quantized weights, or the directory holds something else.
    """
    found = bench_problem(problem, "network to finetune")
    bench, measured = found.bench, fidelity or problem.fidelity
    step = _check(bench, post_step or SQWA(captures=3), size)
    problem.check_feasible(policy)
    problem.check_fidelity(measured)
    identity: dict[str, Any] = {
        "problem": problem.provenance(),
        "policy": policy.to_dict(),
        "post_step": step.to_dict(),
        "size": size,
        "fidelity": asdict(measured),
    }
    identity = json.loads(json.dumps(identity))
    with closing(Journal(directory, PLANE_EVENTS)) as journal:
        _open(journal, directory, identity)
        on_start()
        with bench.fixed_threads():
            state = KeptState(directory / "unfinished", identity)
            training = training_of(bench, noise=step.noise, progress=on_step, state=state)
            models = _models(bench, policy, step, training, directory, identity)
            survey = _Survey(bench.trainable(policy), training, found.search_task(measured), found.setup)
            return _measure(survey, models, journal, size, identity, on_point)


@dataclass(frozen=True, slots=True, eq=False)
class _Survey:
    """Measures mixtures of states."""

    network: TrainableNetwork
    training: Training
    task: Task
    setup: Setup

    def measure(self, state: State) -> tuple[float, float]:
        """Loss and estimated ACR of a state whose weights are to be quantized."""
        load_state(self.network, state)
        resolve_steps(self.network)
        recalibrate_batch_norm(self.network, self.training.images)
        loss = mean_loss(self.network, self.training.batches)
        acr = Ranking().measure(self.network.freeze(), self.task, self.setup).acr
        assert acr is not None
        return loss, acr


def mix(states: Sequence[State], shares: Sequence[float]) -> State:
    """The mixture of states, in double precision: steps geometrically, for they are positive, everything else linearly.

    Whole numbers are those of the first state.
    """
    mixed: State = {}
    for name, first in states[0].items():
        tensors = [state[name].double() for state in states]
        if not first.is_floating_point():
            mixed[name] = first
        elif name.endswith(".step"):
            logarithms = [share * tensor.clamp(min=1e-8).log() for share, tensor in zip(shares, tensors, strict=True)]
            mixed[name] = torch.stack(logarithms).sum(dim=0).exp()
        else:
            mixed[name] = torch.stack([share * part for share, part in zip(shares, tensors, strict=True)]).sum(dim=0)
    return mixed


def _check(bench: Workbench, step: PostStep, size: int) -> SQWA:
    """The post-step, if it has a plane."""
    if not isinstance(step, SQWA) or step.captures < 3 or step.averaged != "quantized":
        raise BitcertError(
            "a plane goes through three captures of quantized weights: it needs sqwa with captures >= 3 and "
            "averaged=quantized"
        )
    if bench.finetuning.quantizer not in _QUANTIZERS:
        raise BitcertError(f"a plane needs a quantizer with steps, {' or '.join(_QUANTIZERS)}")
    if size < 2:
        raise BitcertError(f"a plane needs at least 2 points along each axis, got {size}")
    return step


def _open(journal: Journal[PlaneEvent], directory: Path, identity: Mapping[str, Any]) -> None:
    start = {"version": JOURNAL_VERSION, **identity, "software": software()}
    wanted = PlaneStart.model_validate_json(json.dumps(start))
    if not journal.events:
        journal.append(wanted)
    header, *points = journal.events
    if not isinstance(header, PlaneStart) or not all(isinstance(point, PointMeasured) for point in points):
        raise BitcertError(f"{journal.path} is not the journal of a loss plane; choose another directory")
    found = header.model_dump(mode="json")
    different = [name for name, value in identity.items() if found[name] != value]
    if different:
        raise BitcertError(
            f"{directory} holds a plane that differs in {', '.join(different)}; choose another directory"
        )


def _models(
    bench: Workbench, policy: Policy, step: SQWA, training: Training, directory: Path, identity: Mapping[str, Any]
) -> dict[str, State]:
    """The marked networks' states, from disk or trained."""
    store = Store(directory / MODELS_FILE, "plane", identity, remedy="remove it to train again")
    if not store.path.exists():
        kept = dict(zip((0, step.captures // 2, step.captures - 1), CAPTURES, strict=True))
        models: dict[str, State] = {}
        average = Average()

        def keep(number: int, state: State) -> None:
            average.add(state)
            if number in kept:
                models[kept[number]] = state

        network = bench.trainable(policy)
        sqwa(network, training, step.plan, captured=keep)
        store.write(models | {"average": average.state, "finetuned": capture(network)})
        if training.state is not None:
            remove_kept(training.state.folder)
    return {
        name: {key: tensor.to(bench.device) for key, tensor in state.items()}
        for name, state in store.read().groups.items()
    }


def _measure(
    survey: _Survey,
    models: Mapping[str, State],
    journal: Journal[PlaneEvent],
    size: int,
    identity: Mapping[str, Any],
    on_point: Callable[[int], None],
) -> LossPlane:
    names = [f"{name}.weight" for name in survey.network.layers()]

    def weights(state: State) -> Point:
        return torch.cat([state[name].double().flatten() for name in names]).cpu().numpy()

    corners = [models[name] for name in CAPTURES]
    plane = Plane.through([weights(state) for state in corners])
    places = {name: plane.project(weights(state)) for name, state in models.items()}
    u, v = _axes(np.array([place[:2] for place in places.values()]), size)
    known = {event.name: (event.loss, event.acr) for event in journal.events if isinstance(event, PointMeasured)}
    wanted: dict[str, Callable[[], State]] = {name: lambda state=state: state for name, state in models.items()}  # type: ignore[misc]
    for row in range(size):
        for column in range(size):
            shares = plane.shares(u[column], v[row])
            wanted[f"{row},{column}"] = lambda shares=shares: mix(corners, shares)  # type: ignore[misc]
    for count, (name, state) in enumerate(wanted.items(), start=1):
        if name not in known:
            loss, acr = known[name] = survey.measure(state())
            journal.append(PointMeasured(name=name, loss=loss, acr=acr))
        on_point(count)
    grid = np.array([[known[f"{row},{column}"] for column in range(size)] for row in range(size)])
    return LossPlane(
        u=u,
        v=v,
        loss=grid[..., 0],
        acr=grid[..., 1],
        marks=tuple(Mark(name, *places[name], *known[name]) for name in (*CAPTURES, "average", "finetuned")),
        provenance=dict(identity),
    )


def _axes(places: Point, size: int) -> tuple[Point, Point]:
    """A square grid around all marks, with a margin."""
    low, high = places.min(axis=0), places.max(axis=0)
    half = (0.5 + _MARGIN) * float((high - low).max())
    centre = (low + high) / 2
    u, v = (np.linspace(middle - half, middle + half, size) for middle in centre)
    return u, v
