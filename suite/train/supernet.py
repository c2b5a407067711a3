"""Supernet training: the weights of one switchable network are trained for all policies at once."""

from __future__ import annotations

import hashlib
import math
import platform
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from suite.contract.cost import Budget, parse_budget, random_feasible
from suite.contract.space import Policy, SearchSpace
from suite.contract.trial import GRADIENT_PASSES
from suite.data import ImageSplit
from suite.errors import BitcertError, unknown_name
from suite.networks import network_sha256
from suite.quantize.switchable import Norms, Sharing, SwitchableLayer, SwitchableNetwork
from suite.seeds import derive_seed
from suite.store import Store
from suite.train.base import augment
from suite.train.optimizer import load_optimizer_state, optimizer_state, parameter_groups, size_of

Inheritance = Literal["doubled", "none"]
INHERITANCE: tuple[Inheritance, ...] = get_args(Inheritance)

_ABOVE = (0.5, 1.0, 1.5, 2.0, 4.0)  # bits above the fewest, of the budgets that random policies are drawn within
_CLIP = 1.0  # gradients are clipped to this value
_EVERY = 100  # steps between two states on disk


@dataclass(frozen=True, slots=True)
class SupernetSettings:
    """How a supernet is trained.

    Attributes:
        steps: Optimizer steps.
        batch: Images per step.
        rate: Adam's initial rate; it falls to zero along a half cosine. For quantizer steps it is relative to their size.
        random: Random policies per step, besides those of the most and the fewest bits.
        distillation: Weight of the soft targets: each policy of a step learns from the one before, which has more bits; the rest
            of its loss is cross-entropy with the labels.
        inheritance: ``"doubled"`` starts with the most bits and adds one bit width at a time, whose quantizer steps start at
            twice those of the next one (weights of its own start as that one's); ``"none"`` trains all from the beginning,
            from least-squares steps.
        growth: Share of the steps until all bit widths are there, with ``"doubled"``.
        private_weights, norms: See :class:`suite.quantize.switchable.Sharing`.
    """

    steps: int = 2_000
    batch: int = 64
    rate: float = 1e-3
    random: int = 1
    distillation: float = 0.5
    inheritance: Inheritance = "doubled"
    growth: float = 0.3
    private_weights: bool = False
    norms: Norms = "shared"

    def __post_init__(self) -> None:
        for name, least in (("steps", 0), ("batch", 2), ("random", 0)):
            if getattr(self, name) < least:
                raise BitcertError(f"{name} of a supernet must be at least {least}, got {getattr(self, name)}")
        if not 0 < self.rate < math.inf:
            raise BitcertError(f"the rate of a supernet must be a positive number, got {self.rate}")
        for name in ("distillation", "growth"):
            if not 0 <= getattr(self, name) < 1:
                raise BitcertError(f"{name} of a supernet is a share within [0, 1), got {getattr(self, name)}")
        if self.inheritance not in INHERITANCE:
            raise unknown_name("inheritance", self.inheritance, INHERITANCE)
        self.sharing  # noqa: B018 (checks it)

    @property
    def sharing(self) -> Sharing:
        """What bit widths have in common."""
        return Sharing(self.private_weights, self.norms)


@dataclass(frozen=True, slots=True)
class Schedule:
    """Which bit widths are trained at a step.

    Attributes:
        choices: All of them, ascending.
        starts: The step at which each bit width of ``choices`` joins; the most bits are there from the beginning.
    """

    choices: tuple[int, ...]
    starts: tuple[int, ...]

    @classmethod
    def make(cls, choices: tuple[int, ...], settings: SupernetSettings) -> Schedule:
        """Bit widths join at equal distances, the most bits first."""
        if settings.inheritance == "none":
            return cls(choices, (0,) * len(choices))
        distance = settings.growth * settings.steps / max(1, len(choices) - 1)
        return cls(choices, tuple(math.floor(distance * number) for number in reversed(range(len(choices)))))

    def joined(self, step: int) -> tuple[int, ...]:
        """Bit widths that are trained at a step, ascending."""
        return tuple(bits for bits, start in zip(self.choices, self.starts, strict=True) if start <= step)

    def joining(self, step: int) -> tuple[int, ...]:
        """Bit widths that start at a step by inheriting, most bits first."""
        inherits = zip(self.choices[:-1], self.starts[:-1], strict=True) if any(self.starts) else ()
        return tuple(bits for bits, start in reversed(list(inherits)) if start == step)


def budgets_of(space: SearchSpace) -> list[Budget]:
    """The budgets that random policies are drawn within: uniform bits of 0.5 to 4 above the fewest that the space has.

    Bits drawn uniformly for every layer would concentrate where nobody searches.
    """
    least, most = space.choices[0], space.choices[-1]
    bits = [least + above for above in _ABOVE if least + above < most]
    return [parse_budget(f"w{width:g}a{width:g}", space) for width in bits]


def training_passes(choices: tuple[int, ...], settings: SupernetSettings) -> int:
    """Forward passes of a training: three for each image and policy of a step; there is one policy while there is one bit width."""
    starts = Schedule.make(choices, settings).starts
    alone = starts[-2] if len(choices) > 1 else settings.steps
    policies = alone + (settings.steps - alone) * (2 + settings.random)
    return GRADIENT_PASSES * settings.batch * policies


def draw_policies(space: SearchSpace, choices: tuple[int, ...], random: int, rng: np.random.Generator) -> list[Policy]:
    """The policies of a step, with the bit widths that have joined: the most bits, random ones, the fewest bits.

    Random policies are drawn within a budget that is drawn first. While there is one bit width, so is the policy.
    """
    part = replace(space, choices=choices)
    if len(choices) == 1:
        return [part.uniform(choices[0])]
    budgets = budgets_of(part)
    drawn = [
        random_feasible(part, budgets[rng.integers(len(budgets))], rng) if budgets else part.random(rng)
        for _ in range(random)
    ]
    return [part.uniform(choices[-1]), *drawn, part.uniform(choices[0])]


def accumulate_gradients(
    network: SwitchableNetwork, policies: list[Policy], inputs: Tensor, labels: Tensor, distillation: float
) -> list[float]:
    """Add the gradients of a step: each policy after the first learns from the logits of the one before, too.

    Args:
        network: Its gradients are added to.
        policies: In descending order of bits.
        inputs: Noisy images, shape ``(batch, C, H, W)``.
        labels: Their labels.
        distillation: Weight of the Kullback-Leibler divergence from the soft targets; the teacher gets no gradient.

    Returns:
        The loss of each policy.

    Raises:
        BitcertError: If one is not finite.
    """
    losses: list[float] = []
    teacher: Tensor | None = None
    for policy in policies:
        network.set_policy(policy)
        logits = network(inputs)
        loss = functional.cross_entropy(logits, labels)
        if teacher is not None and distillation:
            divergence = functional.kl_div(
                logits.log_softmax(dim=1), teacher.log_softmax(dim=1), reduction="batchmean", log_target=True
            )
            loss = (1 - distillation) * loss + distillation * divergence
        if not torch.isfinite(loss):
            raise BitcertError("supernet training diverged: the loss is not finite; train at a lower rate")
        loss.backward()
        teacher = logits.detach()
        losses.append(float(loss.detach()))
    return losses


@torch.no_grad()
def inherit_bits(layer: SwitchableLayer, bits: int) -> None:
    """Start a bit width of a layer from the next one: twice its quantizer steps for every bit less, and its weights.

    Halving the number of levels at twice the step covers the same range, but for one level.

    References:
        Shen et al., Once quantization-aware training, ICCV 2021, bit inheritance.
    """
    for part, step_of in enumerate((layer.weight_step, layer.input_step)):
        if bits in layer.bits[part] and bits != layer.bits[part][-1]:
            above = layer.bits[part][layer.bits[part].index(bits) + 1]
            step_of(bits).step.copy_(step_of(above).positive_step() * 2 ** (above - bits))
            if part == 0 and len(layer.masters) > 1:
                layer.master(bits).copy_(layer.master(above))


def train_supernet(
    network: SwitchableNetwork,
    space: SearchSpace,
    split: ImageSplit,
    *,
    sigma: float,
    settings: SupernetSettings,
    augmentation: tuple[bool, int],
    seed: int,
    resume: Path | None = None,
    progress: Callable[[int, float], None] | None = None,
) -> dict[str, Any]:
    """Train a switchable network in place for all policies of a space, on images under noise.

    Every step adds the gradients of the policy of the most bits, of random ones, and of the fewest bits (the sandwich rule); the
    later ones learn from the one before. Batch norms use the batch's own statistics, which change with the policy, so none are
    kept: they are measured for each policy when it is used. Images, noise and policies of a step are a function of
    ``seed`` and its number, so that training resumes as if it had never stopped, bit for bit.

    Args:
        network: As made from the float network.
        space: Of the policies; its choices are those of the network.
        split: Training images.
        sigma: Standard deviation of the noise.
        settings: Steps, rate, distillation, inheritance.
        augmentation: Whether images are flipped, and by how many pixels they are shifted at most.
        seed: Seed of order, augmentation, noise and policies.
        resume: File that keeps the state; the caller removes it once the network is saved.
        progress: Called with the number of finished steps and the last step's loss at the fewest bits.

    Returns:
        A JSON-ready record.

    Raises:
        BitcertError: If the loss stops being finite, or ``resume`` holds another training.

    References:
        Xu et al., EQ-Net: Elastic quantization neural networks, ICCV 2023; Shen et al., Once quantization-aware training, ICCV
        2021; Yu et al., BigNAS, ECCV 2020 (sandwich rule).
    """
    images = hashlib.sha256(split.ids.tobytes() + split.labels.tobytes()).hexdigest()
    record = {"settings": asdict(settings), "seed": seed, "sigma": sigma, "images": len(split), "split_sha256": images}
    record |= {"choices": list(space.choices), "pins": {name: list(pin) for name, pin in space.pinned.items()}}
    identity = record | {"start_sha256": network_sha256(network)}
    store = None if resume is None else Store(resume, "supernet training", identity)
    schedule = Schedule.make(space.choices, settings)
    optimizer = _Optimizer(network, settings)
    done, losses = optimizer.load(store)
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.momentum = 0.0  # running statistics stay as they are
    device = next(network.parameters()).device
    draw = partial(_draw_batch, split, sigma, settings.batch, augmentation, seed)
    network.train()
    for step in range(done, settings.steps):
        for bits in schedule.joining(step):
            for layer in network.layers.values():
                inherit_bits(layer, bits)
            optimizer.rescale()
        rng = np.random.default_rng(derive_seed(seed, "supernet policies", step))
        policies = draw_policies(space, schedule.joined(step), settings.random, rng)
        inputs, labels = draw(step)
        losses = accumulate_gradients(network, policies, inputs.to(device), labels.to(device), settings.distillation)
        optimizer.step(step)
        if store is not None and (step + 1) % _EVERY == 0:
            optimizer.save(store, step + 1, losses)
        if progress is not None:
            progress(step + 1, losses[-1])
    network.eval()
    return record | {
        "losses": losses,
        "forward_passes": training_passes(space.choices, settings),
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__},
        "cpu": torch.backends.cpu.get_cpu_capability(),
    }


def _draw_batch(
    split: ImageSplit, sigma: float, batch: int, augmentation: tuple[bool, int], seed: int, step: int
) -> tuple[Tensor, Tensor]:
    """Noisy images and labels of a step: a function of the seed and the step's number."""
    batch = min(batch, len(split))
    each = len(split) // batch  # steps in an epoch; an incomplete last batch is dropped
    epoch, position = divmod(step, each)
    order = np.random.default_rng(derive_seed(seed, "supernet order", epoch)).permutation(len(split))
    chosen = split.subset(order[position * batch : (position + 1) * batch])
    generator = torch.Generator().manual_seed(derive_seed(seed, "supernet noise", step))
    images = augment(chosen.images(), *augmentation, generator)
    return images + sigma * torch.randn(images.shape, generator=generator), torch.from_numpy(chosen.labels)


class _Optimizer:
    """Adam with clipped gradients; quantizer steps move by a share of their size, and all rates fall along a half cosine."""

    def __init__(self, network: SwitchableNetwork, settings: SupernetSettings) -> None:
        self._network, self._settings = network, settings
        self._scales = network.steps()
        self._adam = torch.optim.Adam(parameter_groups(network, self._scales, settings.rate), fused=True)
        self._sizes: list[float] = []
        self.rescale()

    def rescale(self) -> None:
        """Measure the quantizer steps' sizes."""
        self._sizes = [1.0, *map(size_of, self._scales)]

    def step(self, step: int) -> None:
        """Apply the gradients and clear them."""
        rate = self._settings.rate * (1 + math.cos(math.pi * step / self._settings.steps)) / 2
        for group, size in zip(self._adam.param_groups, self._sizes, strict=True):
            group["lr"] = rate * size
        nn.utils.clip_grad_value_(self._network.parameters(), _CLIP)
        self._adam.step()
        self._adam.zero_grad(set_to_none=True)

    def save(self, store: Store, done: int, losses: list[float]) -> None:
        """Replace the stored state."""
        groups: dict[str, dict[str, Tensor]] = {"network": dict(self._network.state_dict())}
        groups |= optimizer_state(self._network, self._adam)
        store.write(groups, {"done": done, "losses": losses, "sizes": self._sizes})

    def load(self, store: Store | None) -> tuple[int, list[float]]:
        """Take over a stored state, if there is one; returns the finished steps and the last losses."""
        if store is None or not store.path.exists():
            return 0, []
        stored = store.read()
        self._network.load_state_dict(stored.groups["network"])
        load_optimizer_state(self._network, self._adam, stored.groups)
        self._sizes = list(stored.record["sizes"])
        return int(stored.record["done"]), list(stored.record["losses"])
