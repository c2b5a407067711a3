"""Entries that no search made, valid in every field: the same for the same arguments."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from suite.board.certificates import certificates_of
from suite.board.schema import (
    BoardEntry,
    Choice,
    Exam,
    Fidelity,
    Hashes,
    Method,
    Origin,
    PostStepRecord,
    Results,
    Rows,
    Spend,
    Task,
    Verification,
    Withdrawal,
    verification_of,
    withdrawal_of,
    write_checked,
)

RADII = (0.25, 0.5, 0.75)
_STRENGTH = {"cheapest": 0.0, "random": 0.62, "random-filled": 0.68, "tpe": 0.72, "arq": 0.74, "evolution": 0.76}


def make_entry(method: str = "random", seed: int = 0, **changes: Any) -> BoardEntry:
    """An entry whose averages follow from its rows.

    Args:
        method: Better methods by name; an unknown one is as good as ``random``.
        seed: Of the search and of the rows.
        **changes: ``budget``, ``problem``, ``images``, ``text``, ``origin``, ``costs``, ``post_step``, ``date``.
    """
    images, budget, sigma, n = changes.get("images", 40), changes.get("budget", "w3a3"), 0.25, 1_000
    rng = np.random.default_rng([seed, *method.encode(), *budget.encode()])
    labels = np.random.default_rng(0).integers(0, 10, images)
    level = _STRENGTH.get(method, 0.62) + {"w2a2": -0.1, "w3a3": 0.0}.get(budget, 0.05)
    share = np.clip(rng.normal(level + 0.02 * rng.normal(), 0.15, images) + 0.1, 0.02, 1.0)
    right = rng.random(images) < level + 0.15
    rows = Rows(
        id=list(range(1000, 1000 + images)),
        label=labels.tolist(),
        prediction=np.where(right, labels, (labels + 1) % 10).tolist(),
        successes=np.round(share * n).astype(int).tolist(),
    )
    bits = rng.integers(2, 5, (2, 8)).tolist()
    share_of_bops = float(np.mean(np.array(bits[0]) * np.array(bits[1]))) / 1024
    entry = BoardEntry(
        version=1,
        method=Method(name=method, text=changes.get("text", method), seed=seed, version="0.1.0"),
        problem=Task(
            name=changes.get("problem", "digits"),
            budget=budget,
            sigma=sigma,
            objective="acr",
            protocol="ptq",
            norm="l2",
            guarantee="probabilistic",
            record={"network": "cnn", "radii": list(RADII), "pins": {}},
        ),
        policy=Choice(weights=bits[0], activations=bits[1]),
        post_step=PostStepRecord(name=changes.get("post_step", "none"), options={}, seed=0, forward_passes=0),
        spend=Spend(
            fidelity=Fidelity(images=60, noise=16, finetune_steps=0),
            second=Fidelity(images=120, noise=16, finetune_steps=0),
            evaluations=64,
            finalists=4,
            probe_passes=0,
            other_passes=0,
            forward_passes=640_000 + 1_000 * seed,
            seconds=12.5,
            score=0.4,
        ),
        exam=Exam(images=images, n0=100, n=n, alpha=0.001, method="fixed", split="exam"),
        results=Results(
            acr=0.0,
            clean_accuracy=float(right.mean()),
            certified_accuracy={},
            costs={"bops": round(share_of_bops * 1e9), **changes.get("costs", {})},
            bops_share=share_of_bops,
            constant=0.08,
            forward_passes=images * (100 + n),
        ),
        images=rows,
        hashes=Hashes(network="a" * 64, data="b" * 64, weights="c" * 64),
        origin=Origin(
            command=f"bitcert submit runs/{method}-{seed}",
            experiment=None,
            software={"torch": "2.10.0"},
            commit="0" * 40,
            date=changes.get("date", "2026-11-01"),
            **changes.get("origin", {}),
        ),
    )
    found = certificates_of(entry)
    shares = found.certified_accuracy(labels, RADII)
    averages = {
        "acr": found.acr(labels),
        "certified_accuracy": {f"{radius:g}": part for radius, part in shares.items()},
    }
    return entry.model_copy(update={"results": entry.results.model_copy(update=averages)})


def put(directory: Path, entry: BoardEntry, status: str = "claimed") -> Path:
    """Write an entry with the files that give it this status."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"{entry.name}.json"
    write_checked(entry, path)
    if status in ("verified", "rejected"):
        accepted = status == "verified"
        verification = Verification(
            version=1,
            entry=entry.sha256,
            accepted=accepted,
            reasons=[] if accepted else ["12 images have fewer successes than published"],
            images=20,
            samples=500,
            seed=7,
            error_rate=0.001,
            p_value=0.4 if accepted else 1e-9,
            agreement=1.0,
            full=False,
            software={"torch": "2.10.0"},
            commit=None,
            date="2026-11-02",
        )
        write_checked(verification, verification_of(path))
    if status == "withdrawn":
        write_checked(Withdrawal(reason="trained on exam images", date="2026-11-03"), withdrawal_of(path))
    return path


def put_board(directory: Path, *, seeds: int = 6) -> None:
    """Two budgets of one problem, verified, and entries of every other status."""
    for method in ("cheapest", "random", "random-filled", "tpe", "evolution"):
        for seed in range(seeds):
            put(directory, make_entry(method, seed, costs={"bytes": 4_000 + 100 * seed}), "verified")
    for seed in range(2):
        put(directory, make_entry("random", seed, budget="w2a2"), "verified")
        put(directory, make_entry("arq", seed, text="arq:episodes=64"), "claimed")
    put(directory, make_entry("haq", 0), "rejected")
    put(directory, make_entry("fit", 0), "withdrawn")
