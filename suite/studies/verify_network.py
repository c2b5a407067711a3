"""The verb ``verify-network``."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from contextlib import closing
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from suite.errors import BitcertError
from suite.files import write_text
from suite.run.events import Settings
from suite.run.journal import JOURNAL_VERSION, Event, Journal
from suite.run.provenance import software
from suite.studies.model import Group, Integers, keyed, setting
from suite.studies.settings import DataSettings, slug
from suite.studies.study import Study, print_table

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from suite.certify.linf import Effort
    from suite.quantize.fixed_point import FixedPointNetwork
    from suite.report.table import Table

STATUSES = ("robust", "not robust", "unknown")


class VerifyStart(Event):
    """The first line of the journal: what is verified."""

    event: Literal["verify"] = "verify"
    version: Literal[3]
    identity: Settings
    software: Settings


class ImageVerdict(BaseModel):
    """What is known of one image at one radius."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False)

    radius: int
    status: Literal["robust", "not robust", "unknown"]
    by: str
    seconds: float
    counterexample: list[int] | None = None
    opinion: Literal["agrees", "silent", "disagrees"] | None = None


class ImageVerified(Event):
    """An image is done; radii are in levels, and its verdicts and maximum radius were only sought if it is classified correctly."""

    event: Literal["image"] = "image"
    id: int
    label: int
    correct: bool
    interval_radius: int
    verdicts: list[ImageVerdict]
    robust: int | None = None
    broken: int | None = None
    exact: bool | None = None


VerifyEvent = VerifyStart | ImageVerified
VERIFY_EVENTS: TypeAdapter[VerifyEvent] = TypeAdapter(Annotated[VerifyEvent, Field(discriminator="event")])


class ImageSettings(DataSettings):
    """Which images are verified."""

    dataset: str = setting(
        "mnist", "digits, mnist, cifar10 or folder; its pixels must be the network's", metavar="DATASET"
    )
    images: int = setting(100, "the first so many of them", metavar="N", ge=1)
    split: Literal["exam", "search"] = setting(
        "exam", "exam: held-out (for MNIST and CIFAR-10 the test set), or search"
    )
    file_order: bool = setting(False, "take them in the order of the dataset's files, not in bitcert's shuffled one")


class VerifySettings(Group):
    """Settings of a verification."""

    network: str = setting(..., "fixed-point network, .json or .safetensors", metavar="FILE")
    radii: Integers = setting(
        (1, 2, 3, 4), "L-infinity radii in levels of a pixel: k is k/255 for bytes", metavar="K,..."
    )
    maximum: bool = setting(False, "also find the maximum robust radius of every image", flag="--maximum-radius")
    solver: Literal["cp-sat", "branch"] = setting(
        "cp-sat", "cp-sat: OR-tools, needs pip install 'bitcert[exact]'; branch: branch and bound, for few pixels"
    )
    seconds: float = setting(
        30.0, "limit of the solver for each image and radius, on the clock; what it cannot decide is unknown"
    )
    workers: int = setting(1, "threads of the solver", metavar="N", ge=1)
    second: bool = setting(False, "ask HiGHS for an opinion on what the solver decides", flag="--second-opinion")
    seed: int = setting(0, "seed of the attack", ge=0, expert=True)
    images: ImageSettings = ImageSettings()
    directory: str | None = setting(
        None,
        "folder of the journal, from which it is resumed (default: one in runs/ named after the file)",
        metavar="DIR",
    )
    out: str | None = setting(None, "also write everything as JSON, with counterexamples", metavar="FILE")


@dataclass(frozen=True, slots=True)
class Verified:
    """What was found.

    Attributes:
        images: One record per image, in order.
        radii: In levels, ascending.
        levels: Radius k is ``k / levels`` in units of images in [0, 1].
        identity: Network, images and settings.
    """

    images: tuple[ImageVerified, ...]
    radii: tuple[int, ...]
    levels: int
    identity: Mapping[str, Any]

    def summary(self) -> list[dict[str, Any]]:
        """One row per radius: counts, certified accuracy, and seconds per correctly classified image."""
        import numpy as np

        rows = []
        for place, radius in enumerate(self.radii):
            found = [image.verdicts[place] for image in self.images if image.correct]
            counts = {status: sum(verdict.status == status for verdict in found) for status in STATUSES}
            seconds = [verdict.seconds for verdict in found] or [0.0]
            bounds = sum(verdict.status == "robust" and verdict.by == "bounds" for verdict in found)
            rows.append(
                {
                    "radius": radius,
                    **{status.replace(" ", "_"): count for status, count in counts.items()},
                    "by_bounds": bounds,
                    "certified_accuracy": counts["robust"] / len(self.images),
                    "median_seconds": float(np.median(seconds)),
                    "percentile_95_seconds": float(np.percentile(seconds, 95)),
                }
            )
        return rows

    def to_dict(self) -> dict[str, Any]:
        """Everything, JSON-ready."""
        images = [image.model_dump(mode="json", exclude={"event"}) for image in self.images]
        about = {"norm": "linf", "levels": self.levels, "alpha": 0.0, **self.identity}
        return {**about, "summary": self.summary(), "images": images}


class VerifyNetwork(Study[VerifySettings, Verified]):
    """Decide for every image whether a fixed-point network is robust around it.

    Read a fixed-point network (docs/deterministic.md describes the file) and decide, without any failure probability, on how many
    images its prediction stays the same whatever is done to each pixel within a radius. Rerun it to resume it.
    """

    Settings = VerifySettings
    positional = ("network",)

    @cached_property
    def radii(self) -> tuple[int, ...]:
        """In ascending order."""
        given = self.settings.radii
        with keyed("radii"):
            if not given or min(given) < 0 or len(set(given)) < len(given):
                raise BitcertError(f"radii are different numbers of levels >= 0, got {list(given)}")
        return tuple(sorted(given))

    @cached_property
    def effort(self) -> Effort:
        """How hard to try."""
        from suite.certify.linf import Effort, solver_named

        settings = self.settings
        with keyed("seconds"):
            effort = Effort(
                settings.solver, settings.seconds, settings.workers, seed=settings.seed, second=settings.second
            )
        with keyed("solver"):
            solver_named(settings.solver)
        return effort

    @cached_property
    def network(self) -> FixedPointNetwork:
        """The network."""
        from suite.quantize.fixed_point import read_fixed_point

        with keyed("network"):
            return read_fixed_point(Path(self.settings.network))

    @cached_property
    def images(self) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], str]:
        """Codes, labels and ids of the images, and the hash of their dataset."""
        import numpy as np

        from suite.data import load_dataset

        asked, network = self.settings.images, self.network
        with keyed("images", "dataset"):
            dataset = load_dataset(asked.dataset, asked.data, download=asked.download)
            if (dataset.shape, dataset.levels) != (network.image_shape, network.levels):
                raise BitcertError(
                    f"images of {asked.dataset} have shape {dataset.shape} and {dataset.levels} levels, the network takes "
                    f"{network.image_shape} and {network.levels}; name the dataset that it was made for"
                )
            if dataset.classes > network.classes:
                raise BitcertError(
                    f"{asked.dataset} has {dataset.classes} classes, the network {network.classes} outputs"
                )
        split = dataset.splits[asked.split]
        if asked.file_order:
            split = split.subset(np.argsort(split.ids))
        with keyed("images", "images"):
            if asked.images > len(split):
                raise BitcertError(f"{asked.images} {asked.split} images asked for, {asked.dataset} has {len(split)}")
        codes = np.rint(split.images(0, asked.images).numpy().astype(np.float64) * network.levels).astype(np.int64)
        return codes, split.labels[: asked.images], split.ids[: asked.images], dataset.sha256

    def run(self, *, quiet: bool = True) -> Verified:
        """Verify image by image, or go on where it stopped."""
        from suite.report.progress import Progress

        radii, effort, network = self.radii, self.effort, self.network
        codes, labels, ids, data_sha256 = self.images
        settings = self.settings
        identity = {
            "network_sha256": hashlib.sha256(Path(settings.network).read_bytes()).hexdigest(),
            "data_sha256": data_sha256,
            "images": ids.tolist(),
            "radii": list(radii),
            "maximum": settings.maximum,
            **asdict(effort),
        }
        digest = hashlib.sha256(json.dumps(identity).encode()).hexdigest()
        name = slug(f"verify-{Path(settings.network).stem}-{digest[:8]}")
        directory = Path("runs") / name if settings.directory is None else Path(settings.directory)
        with Progress(quiet=quiet) as progress, closing(Journal(directory, VERIFY_EVENTS)) as journal:
            done = _open(journal, directory, identity)
            progress.add("images", len(ids))
            progress.update("images", len(done))
            for place in range(len(done), len(ids)):
                image = _verify_image(network, codes[place], int(labels[place]), radii, effort, settings.maximum)
                found = journal.append(image.model_copy(update={"id": int(ids[place])}))
                assert isinstance(found, ImageVerified)
                done.append(found)
                progress.update("images", len(done), state=_state(done))
        result = Verified(tuple(done), radii, network.levels, identity)
        if settings.out is not None:
            write_text(Path(settings.out), json.dumps(result.to_dict()) + "\n")
        return result

    def to_json(self, result: Verified) -> str:
        """Everything, counterexamples included."""
        return json.dumps(result.to_dict())

    def show(self, result: Verified) -> None:
        """Print one row per radius, and the maximum radii if they were asked for."""
        print_table(verdict_table(result))
        if self.settings.maximum:
            known = [image for image in result.images if image.robust is not None]
            for image in known:
                print(f"image {image.id}: {_radius_text(image)}")
            mean = sum(max(image.robust or 0, 0) for image in known) / len(result.images)
            open_ = sum(not image.exact for image in known)
            print(f"average robust radius {mean:.3f} levels, misclassified images as 0; {open_} not known exactly")


def _open(journal: Journal[VerifyEvent], directory: Path, identity: Mapping[str, Any]) -> list[ImageVerified]:
    """The images that are done."""
    start = {"version": JOURNAL_VERSION, "identity": identity, "software": software()}
    if not journal.events:
        journal.append(VerifyStart.model_validate_json(json.dumps(start)))
    header, *images = journal.events
    if not isinstance(header, VerifyStart):
        raise BitcertError(f"{journal.path} is not the journal of a verification; choose another directory")
    different = [name for name, value in identity.items() if header.identity.get(name) != value]
    if different:
        raise BitcertError(
            f"{directory} holds a verification that differs in {', '.join(different)}; choose another directory"
        )
    return [image for image in images if isinstance(image, ImageVerified)]


def _verify_image(
    network: FixedPointNetwork,
    codes: NDArray[np.int64],
    label: int,
    radii: tuple[int, ...],
    effort: Effort,
    maximum: bool,
) -> ImageVerified:
    """Verdicts of one image, each radius on its own, so that its seconds are what it takes."""
    import numpy as np

    from suite.certify.interval import MISCLASSIFIED, certified_radius
    from suite.certify.linf import maximum_radius, verify

    interval = int(certified_radius(network, codes[None], np.array([label]))[0])
    correct, verdicts = interval != MISCLASSIFIED, list[ImageVerdict]()
    for radius in radii if correct else ():
        found = verify(network, codes, label, radius, effort)
        point = None if found.counterexample is None else list(found.counterexample)
        verdicts.append(
            ImageVerdict(
                radius=radius,
                status=found.status,
                by=found.by,
                seconds=found.seconds,
                counterexample=point,
                opinion=found.opinion,
            )
        )
    record = ImageVerified(id=0, label=label, correct=correct, interval_radius=interval, verdicts=verdicts)
    if not (correct and maximum):
        return record
    largest = maximum_radius(network, codes, label, effort)
    return record.model_copy(update={"robust": largest.robust, "broken": largest.broken, "exact": largest.exact})


def _state(done: list[ImageVerified]) -> str:
    unknown = sum(verdict.status == "unknown" for image in done for verdict in image.verdicts)
    return f"unknown {unknown}"


def _radius_text(image: ImageVerified) -> str:
    if image.exact:
        return f"maximum robust radius {image.robust}"
    return f"robust at {image.robust}, {'nothing known above' if image.broken is None else f'not at {image.broken}'}"


def verdict_table(result: Verified) -> Table:
    """One row per radius."""
    import pandas as pd

    from suite.report.table import Column, Table

    wrong = sum(not image.correct for image in result.images)
    columns = [
        Column("radius", lambda row: f"{row['radius']}/{result.levels}"),
        Column("robust", lambda row: str(row["robust"])),
        Column("by bounds", lambda row: str(row["by_bounds"]), priority=1),
        Column("not robust", lambda row: str(row["not_robust"])),
        Column("unknown", lambda row: str(row["unknown"])),
        Column("certified accuracy", lambda row: f"{row['certified_accuracy']:.3f}"),
        Column("median s", lambda row: f"{row['median_seconds']:.3f}"),
        Column("95 % s", lambda row: f"{row['percentile_95_seconds']:.3f}"),
    ]
    note = (
        f"{len(result.images)} images, {wrong} of them misclassified: they count in the accuracy only. L-infinity, no failure "
        "probability; unknown counts as not robust. Seconds are per correctly classified image."
    )
    return Table(pd.DataFrame(result.summary(), dtype=object), columns, "exact verification", [note])
