"""From a dataset to a checkpoint on disk."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from suite.cli import main
from suite.data import ImageDataset, load_dataset
from suite.errors import BitcertError
from suite.networks import build_network, load_checkpoint, network_sha256, shipped_checkpoints
from suite.studies.model import validate
from suite.studies.train import Train
from suite.studies.train import TrainSettings as TrainSettingsOfCommand
from suite.train.base import TrainSettings
from suite.train.interval import certified_share
from suite.train.recipe import RECIPES, Recipe, accuracy, make_checkpoint, recipe_for

_QUICK = Recipe("resnet8", TrainSettings(epochs=2, batch=50))


@pytest.fixture(scope="module")
def dataset() -> ImageDataset:
    whole = load_dataset("digits")
    return replace(whole, splits={**whole.splits, "train": whole.splits["train"].subset(range(150))})


def test_a_checkpoint_loads_with_a_complete_record(dataset: ImageDataset, tmp_path: Path) -> None:
    path = tmp_path / "digits-sigma0.25.safetensors"
    record = make_checkpoint(dataset, _QUICK, path, sigma=0.25, seed=3, command="bitcert train digits --epochs 2")
    network = build_network("resnet8", 10, 1)
    assert load_checkpoint(network, path) == record
    assert record["network_sha256"] == network_sha256(network)
    assert (record["dataset"], record["data_sha256"]) == ("digits", dataset.sha256)
    assert (record["network"], record["sigma"], record["seed"]) == ("resnet8", 0.25, 3)
    assert record["settings"]["epochs"] == 2
    assert record["search_accuracy"] == accuracy(network, dataset.splits["search"])
    assert record["command"] == "bitcert train digits --epochs 2"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["digits-sigma0.25.json", "digits-sigma0.25.safetensors"]


class _StoppedError(Exception):
    """Stands for a killed process."""


def test_an_interrupted_call_goes_on_and_ends_the_same(dataset: ImageDataset, tmp_path: Path) -> None:
    def stop(*report: object) -> None:
        raise _StoppedError

    whole = make_checkpoint(dataset, _QUICK, tmp_path / "whole.safetensors", sigma=0.25, seed=0)
    path = tmp_path / "net.safetensors"
    with pytest.raises(_StoppedError):
        make_checkpoint(dataset, _QUICK, path, sigma=0.25, seed=0, progress=stop)
    assert not path.exists()
    epochs: list[int] = []
    resumed = make_checkpoint(
        dataset, _QUICK, path, sigma=0.25, seed=0, progress=lambda epoch, *rest: epochs.append(epoch)
    )
    assert (resumed, epochs) == (whole, [2])
    assert path.read_bytes() == (tmp_path / "whole.safetensors").read_bytes()


def test_what_is_trained_already_is_not_trained_again(dataset: ImageDataset, tmp_path: Path) -> None:
    path, epochs = tmp_path / "net.safetensors", list[int]()
    record = make_checkpoint(dataset, _QUICK, path, sigma=0.25, seed=0)
    again = make_checkpoint(
        dataset, _QUICK, path, sigma=0.25, seed=0, progress=lambda epoch, *rest: epochs.append(epoch)
    )
    assert (again, epochs) == (record, [])
    with pytest.raises(BitcertError, match=r"net\.safetensors exists and is another training's \(other sigma\)"):
        make_checkpoint(dataset, _QUICK, path, sigma=0.5, seed=0)


def test_accuracy_counts_every_image_once(dataset: ImageDataset) -> None:
    network = build_network("resnet8", 10, 1, seed=1)
    split = dataset.splits["calibration"]
    with torch.no_grad():
        right = sum(
            int(network(split.images(i, i + 1)).argmax()) == label for i, label in enumerate(split.labels.tolist())
        )
    assert accuracy(network, split, batch=7) == right / 100


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_recipes_name_networks_that_exist(name: str) -> None:
    build_network(recipe_for(name).network, 10, 3 if name == "cifar10" else 1, device="meta")


def test_networks_without_batch_norm_have_recipes_of_their_own() -> None:
    for dataset, network in (("digits", "mlp-digits"), ("mnist", "convnet-mnist")):
        recipe = recipe_for(dataset, network)
        assert recipe.network == network
        assert recipe.settings.interval is not None
    assert recipe_for("digits", "resnet8-wide2") == Recipe("resnet8-wide2", RECIPES["digits"].settings)
    assert recipe_for("digits", "resnet8") == recipe_for("digits") == RECIPES["digits"]


def test_a_network_trained_with_bounds_says_what_they_prove(dataset: ImageDataset, tmp_path: Path) -> None:
    path, settings = tmp_path / "mlp.safetensors", TrainSettings(epochs=30, batch=50, rate=0.05, interval_radius=0.02)
    record = make_checkpoint(dataset, Recipe("mlp-digits", settings), path, sigma=0.0, seed=0)
    network = build_network("mlp-digits", 10, 1)
    assert load_checkpoint(network, path) == record
    assert record["search_proven"] == certified_share(network, dataset.splits["search"], 0.02)
    assert 0.1 < record["search_proven"] <= record["search_accuracy"]


def test_shipped_networks_for_certificates_without_noise_prove_what_is_recorded() -> None:
    dataset, network = load_dataset("digits"), build_network("mlp-digits", 10, 1)
    record = load_checkpoint(network, shipped_checkpoints("digits-linf", 0.25)[0])
    assert accuracy(network, dataset.splits["search"]) == record["search_accuracy"] > 0.95
    assert certified_share(network, dataset.splits["search"], 1 / 16) == record["search_proven"] > 0.8


def test_the_command_line_sets_radius_and_weight_and_allows_no_noise_with_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "linf.safetensors"
    given = ["--sigma", "0", "--seed", "0", "--epochs", "1", "--interval-radius", "0.05", "--interval-weight", "0.25"]
    assert main(["train", "digits-linf", *given, "--out", str(out), "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["settings"]["interval_radius"] == 0.05
    assert record["settings"]["interval_weight"] == 0.25
    assert record["command"] == " ".join(["bitcert train digits-linf", *given])
    assert main(["train", "digits-linf", *given[:4], "--interval-radius", "0", "--out", str(out)]) == 2
    assert "sigma must be positive" in capsys.readouterr().err
    assert main(["train", "digits-linf", "--interval-radius", "2", "--out", str(out)]) == 2
    assert "radius within (0, 1]" in capsys.readouterr().err


def test_the_plan_of_a_training_counts_bounds() -> None:
    plan = Train(validate(TrainSettingsOfCommand, {"problem": {"name": "digits-linf"}, "epochs": 5})).plan()
    assert plan.passes == {"training": (3 + 7) * 5 * 997}


def test_a_dataset_without_recipe_lists_those_with_one() -> None:
    with pytest.raises(BitcertError, match=r"networks for imagenet are not trained here, but for .*digits"):
        recipe_for("imagenet")


@pytest.mark.parametrize(("sigma", "least"), [(0.25, 0.98), (0.5, 0.96)])
def test_shipped_networks_are_as_good_as_recorded(sigma: float, least: float) -> None:
    dataset = load_dataset("digits")
    network = build_network("resnet8", 10, 1)
    record = load_checkpoint(network, shipped_checkpoints("digits", sigma)[0])
    assert record["data_sha256"] == dataset.sha256
    assert record["settings"]["epochs"] == RECIPES["digits"].settings.epochs
    assert accuracy(network, dataset.splits["search"]) == record["search_accuracy"] > least
