"""Networks: names, shapes, normalization, seeds."""

import numpy as np
import pytest
import torch
from torch import nn
from torchvision.models import mobilenet_v2, resnet18

from suite.contract.space import Policy
from suite.errors import BitcertError
from suite.networks import NETWORKS, Normalization, build_network, initialize, network_sha256, trace_layers
from suite.networks.build import GRAYSCALE
from suite.networks.residual import PaddingShortcut
from suite.quantize import QuantizedNetwork, calibrate


@pytest.mark.parametrize("name", ["resnet8", "resnet20", "resnet32", "resnet56"])
@pytest.mark.parametrize("channels", [1, 3])
def test_small_networks_give_logits_for_any_size(name: str, channels: int) -> None:
    network = build_network(name, 7, channels, device="meta")
    assert not network.training
    assert network(torch.rand(2, channels, 8, 8, device="meta")).shape == (2, 7)
    assert network(torch.rand(1, channels, 32, 32, device="meta")).shape == (1, 7)


@pytest.mark.parametrize(("name", "depth"), [("resnet8", 8), ("resnet20", 20), ("resnet32", 32), ("resnet56", 56)])
def test_depth_is_what_the_name_says(name: str, depth: int) -> None:
    modules = dict(build_network(name, 10, device="meta").named_modules())
    counted = [
        key for key, module in modules.items() if isinstance(module, nn.Conv2d | nn.Linear) and "downsample" not in key
    ]
    assert len(counted) == depth


def test_resnet20_has_the_published_number_of_parameters() -> None:
    # 269,722 of He et al.'s option A network with batch norm: 0.27 M (He et al. 2016, table 6)
    assert sum(parameter.numel() for parameter in build_network("resnet20", 10).parameters()) == 269_722


@pytest.mark.parametrize(("name", "reference"), [("resnet18", resnet18), ("mobilenet_v2", mobilenet_v2)])
def test_torchvision_networks_normalize_and_keep_their_names(name: str, reference: object) -> None:
    network = build_network(name, 10, seed=3)
    assert callable(reference)
    original = reference(weights=None, num_classes=10).eval()
    state = {key: tensor for key, tensor in network.state_dict().items() if not key.startswith("normalization.")}
    original.load_state_dict(state)
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    normalized = torch.from_numpy(((images.permute(0, 2, 3, 1).numpy() - mean) / std).astype(np.float32)).permute(
        0, 3, 1, 2
    )
    torch.testing.assert_close(network(images), original(normalized), rtol=1e-4, atol=1e-5)


def test_small_networks_normalize_first() -> None:
    network = build_network("resnet20", 10, mean=(0.1, 0.2, 0.3), std=(0.5, 0.25, 2.0))
    seen: list[torch.Tensor] = []
    network.get_submodule("conv1").register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    images = torch.rand(2, 3, 8, 8)
    network(images)
    expected = torch.stack([(images[:, 0] - 0.1) * 2, (images[:, 1] - 0.2) * 4, (images[:, 2] - 0.3) / 2], dim=1)
    torch.testing.assert_close(seen[0], expected)


def test_gray_images_are_mapped_to_minus_one_to_one() -> None:
    normalization = build_network("resnet8", 10, 1).get_submodule("normalization")
    torch.testing.assert_close(
        normalization(torch.tensor([0.0, 0.5, 1.0]).reshape(3, 1, 1, 1)).ravel(), torch.tensor([-1.0, 0.0, 1.0])
    )


def test_the_padding_shortcut_subsamples_and_pads_with_zeros() -> None:
    features = torch.rand(2, 4, 6, 6)
    passed = PaddingShortcut(4, 2)(features)
    assert passed.shape == (2, 8, 3, 3)
    for row in range(3):
        for column in range(3):
            assert torch.equal(passed[:, 2:6, row, column], features[:, :, 2 * row, 2 * column])
    assert not passed[:, :2].any()
    assert not passed[:, 6:].any()


@pytest.mark.parametrize("name", ["resnet8", "resnet20", "mobilenet_v2-half", "mobilenet_v2"])
def test_weights_depend_on_the_seed_alone(name: str) -> None:
    torch.rand(3)
    before = torch.random.get_rng_state()
    first = network_sha256(build_network(name, 10, seed=1))
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.rand(5)
    assert network_sha256(build_network(name, 10, seed=1)) == first
    assert network_sha256(build_network(name, 10, seed=2)) != first


def test_initialize_forgets_everything_before() -> None:
    network = build_network("resnet8", 10, 1, seed=4)
    with torch.no_grad():
        for tensor in network.state_dict().values():
            if tensor.is_floating_point() and tensor.ndim != 3:
                tensor.add_(1.0)
    initialize(network, 4)
    assert network_sha256(network) == network_sha256(build_network("resnet8", 10, 1, seed=4))


def test_weights_that_no_seed_would_set_are_refused() -> None:
    with pytest.raises(BitcertError, match="1 is a LayerNorm"):
        initialize(nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4)), 0)


def test_no_module_works_in_place() -> None:
    for name in NETWORKS:
        network = build_network(name, 10, 1 if name in GRAYSCALE else 3, device="meta")
        assert not any(getattr(module, "inplace", False) for module in network.modules()), name


@pytest.mark.parametrize(
    ("name", "side", "macs"),
    [
        ("mlp-digits", 8, [64 * 32, 32 * 128, 128 * 64, 64 * 32, 32 * 10]),
        ("convnet-mnist", 28, [12**2 * 25 * 8, 10**2 * 72 * 16, 4**2 * 144 * 32, 512 * 64, 64 * 10]),
    ],
)
def test_feedforward_networks_clamp_images_and_are_quantized_layer_by_layer(
    name: str, side: int, macs: list[int]
) -> None:
    network, shape = build_network(name, 10, 1, seed=1), (1, side, side)
    images = 3 * torch.randn((4, *shape), generator=torch.Generator().manual_seed(0))
    logits = network(images).detach()
    torch.testing.assert_close(network(images.clamp(0, 1)), logits, rtol=0, atol=0)
    layers = trace_layers(network, shape)
    assert [layer.macs for layer in layers] == macs
    calibration = calibrate(network, [layer.name for layer in layers], [images])
    assert not any(seen.signed for seen in calibration.inputs.values())
    executed, bits = QuantizedNetwork(network, layers, calibration), [8] * len(layers)
    executed.set_policy(Policy.from_bits(bits, bits))
    torch.testing.assert_close(executed(images), logits, rtol=0, atol=0.03 * float(logits.abs().max()))


def test_feedforward_networks_take_no_normalization_and_one_channel() -> None:
    with pytest.raises(BitcertError, match="mlp-digits does not normalize"):
        build_network("mlp-digits", 10, 1, mean=(0.5,), std=(0.5,))
    with pytest.raises(BitcertError, match="images with 1 channels, got 3"):
        build_network("convnet-mnist", 10, 3)


def test_only_linear_layers_before_the_last_one_start_large() -> None:
    network = build_network("mlp-digits", 10, 1)
    linear = [module for module in network.modules() if isinstance(module, nn.Linear)]
    deviations, inputs = [float(module.weight.detach().std()) for module in linear], [one.in_features for one in linear]
    assert deviations[:-1] == pytest.approx([(2 / size) ** 0.5 for size in inputs[:-1]], rel=0.05)
    assert deviations[-1] == pytest.approx(0.01, rel=0.1)


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(BitcertError, match="unknown network 'resnet19'; known: resnet18"):
        build_network("resnet19", 10)


@pytest.mark.parametrize(("name", "channels"), [("resnet20", 2), ("resnet50", 1), ("mobilenet_v2-half", 1)])
def test_channels_that_do_not_fit_are_refused(name: str, channels: int) -> None:
    with pytest.raises(BitcertError, match=f"got {channels}"):
        build_network(name, 10, channels)


def test_normalization_must_fit_the_channels() -> None:
    with pytest.raises(BitcertError, match="3 channels needs as many"):
        build_network("resnet20", 10, mean=(0.5,), std=(0.5,))
    with pytest.raises(BitcertError, match="one number per channel"):
        Normalization((0.5, 0.5), (0.5,))
    with pytest.raises(BitcertError, match="std positive"):
        Normalization((0.5,), (0.0,))
