"""The named problems with a network and images, a definition each."""

from __future__ import annotations

from dataclasses import replace

from suite.certify.exam import ExamSettings
from suite.contract.space import Pin
from suite.contract.trial import Fidelity
from suite.problems.definition import Definition

DIGITS = Definition(
    name="digits",
    summary="handwritten digits, 8x8, embedded; ResNet-8",
    network="resnet8",
    dataset="digits",
    shape=(1, 8, 8),
    classes=10,
    fidelity=Fidelity(images=120, noise=64),
)
DIGITS_LOW = replace(
    DIGITS,
    name="digits-low",
    summary="digits at 1 to 4 bits (binary, ternary, ...), finetuned",
    trained_as="digits",
    budget="w1.5a1.5",
    choices=(1, 2, 3, 4),
    fidelity=Fidelity(images=120, noise=64, finetune_steps=400),
)
DIGITS_LOW_TERNARY = replace(
    DIGITS_LOW,
    name="digits-low-ternary",
    summary="digits-low with three levels for inputs of 2 bits; ternary x ternary takes 2 bit operations",
    ternary_inputs=True,
)
DIGITS_LOW_FOUR = replace(
    DIGITS_LOW,
    name="digits-low-four",
    summary="digits-low with four levels (-2, -1, 0, 1) for weights of 2 bits",
    four_level_weights=True,
)
DIGITS_WIDE2 = replace(
    DIGITS_LOW,
    name="digits-wide2",
    summary="digits-low with twice the channels in all blocks, at the BOPs of digits' w2a2",
    network="resnet8-wide2",
    trained_as=None,
    budget="3645440",
)
DIGITS_BLOCKS = replace(
    DIGITS_LOW,
    name="digits-blocks",
    summary="digits-low with one bit width, 1 to 4, for each convolution of its blocks: 4,096 policies",
    budget="w2.5a2.5",
    tie_weight_activation=True,
    tie_shortcuts=True,
)

MNIST = Definition(
    name="mnist",
    summary="MNIST, 28x28; ResNet-8",
    network="resnet8",
    dataset="mnist",
    shape=(1, 28, 28),
    classes=10,
)

DIGITS_LINF = replace(
    DIGITS,
    name="digits-linf",
    summary="digits, L-infinity certificates without noise; fixed-point network of five layers, trained with interval bounds",
    network="mlp-digits",
    radii=tuple(level / 16 for level in range(5)),
    choices=(2, 3, 4, 5),
    fidelity=Fidelity(images=120, noise=1),
    exam=ExamSettings(method="verify"),
    certify="interval",
    engine="fixed-point",
)
MNIST_LINF = replace(
    DIGITS_LINF,
    name="mnist-linf",
    summary="MNIST, L-infinity certificates without noise; fixed-point network of three convolutions, trained with interval bounds",
    network="convnet-mnist",
    dataset="mnist",
    shape=(1, 28, 28),
    radii=tuple(level / 255 for level in (0, 4, 8, 16, 26)),
    fidelity=Fidelity(images=200, noise=1),
)

_OF_SEQUENCES = {"input": Pin(None, 8), "readout": Pin(8, None)}
DIGITS_PERMUTED_RNN = replace(
    DIGITS,
    name="digits-permuted-rnn",
    summary="digits read pixel by pixel, permuted; orthogonal recurrent network of 64 units, 64 steps",
    network="rnn-digits-permuted",
    budget="w4a4",
    pins=_OF_SEQUENCES,
)
DIGITS_PERMUTED_HADAMARD = replace(
    DIGITS_PERMUTED_RNN,
    name="digits-permuted-hadamard",
    summary="digits read pixel by pixel, permuted; recurrent network of 128 units, Walsh-Hadamard matrix with trained signs",
    network="hadamard-digits-permuted",
    sigma=0.12,
    pins={**_OF_SEQUENCES, "recurrent": Pin(1, None)},
)
MNIST_ROWS_RNN = replace(
    MNIST,
    name="mnist-rows-rnn",
    summary="MNIST read row by row; orthogonal recurrent network of 96 units, 28 steps",
    network="rnn-mnist-rows",
    budget="w4a4",
    pins=_OF_SEQUENCES,
)

_OF_SPIKING_DIGITS = {
    **dict.fromkeys(("input", "output"), Pin(8, 8)),
    **dict.fromkeys(("first.state", "second.state"), Pin(8, None)),
    **dict.fromkeys(("first.feedback", "between", "second.feedback"), Pin(None, 1)),
}
SPIKING_DIGITS = replace(
    DIGITS,
    name="spiking-digits",
    summary="digits; spiking network of two recurrent layers, 10 steps, the precision of its states searched; integer states",
    network="spiking-digits",
    budget="w3a3",
    choices=(2, 3, 4, 5, 6),
    pins=_OF_SPIKING_DIGITS,
)
SPIKING_DIGITS_UNIFORM = replace(
    SPIKING_DIGITS,
    name="spiking-digits-uniform",
    summary="spiking-digits with equidistant levels of states over a calibrated range",
    trained_as="spiking-digits",
    state_levels="uniform",
)
SPIKING_DIGITS_CENTRED = replace(
    SPIKING_DIGITS_UNIFORM,
    name="spiking-digits-centred",
    summary="spiking-digits with levels of states that crowd around the threshold (SQUAT)",
    state_levels="centred",
)
SPIKING_DIGITS_TRACES = replace(
    SPIKING_DIGITS_CENTRED,
    name="spiking-digits-traces",
    summary="spiking-digits-centred whose synapses remember, too: two states for each neuron, traces as integers",
    network="spiking-digits-traces",
    trained_as=None,
    pins={**_OF_SPIKING_DIGITS, "first.trace": Pin(8, None), "second.trace": Pin(8, None)},
)
SPIKING_MNIST = replace(
    SPIKING_DIGITS,
    name="spiking-mnist",
    summary="MNIST; spiking network of two recurrent layers, 8 steps; integer states",
    network="spiking-mnist",
    dataset="mnist",
    shape=(1, 28, 28),
    fidelity=Fidelity(images=200, noise=64),
)

CIFAR10_RESNET20 = Definition(
    name="cifar10-resnet20",
    summary="CIFAR-10, 32x32; ResNet-20",
    network="resnet20",
    dataset="cifar10",
    shape=(3, 32, 32),
    classes=10,
    sigma=0.5,
)
CIFAR10_RESNET32 = replace(
    CIFAR10_RESNET20, name="cifar10-resnet32", summary="CIFAR-10, 32x32; ResNet-32", network="resnet32"
)
CIFAR10_RESNET56 = replace(
    CIFAR10_RESNET20, name="cifar10-resnet56", summary="CIFAR-10, 32x32; ResNet-56", network="resnet56"
)
CIFAR10_RESNET20_TIED = replace(
    CIFAR10_RESNET20,
    name="cifar10-resnet20-tied",
    summary="cifar10-resnet20 with one bit width for a layer's weights and inputs",
    trained_as="cifar10-resnet20",
    tie_weight_activation=True,
)
CIFAR10_RESNET20_WIDE2 = replace(
    CIFAR10_RESNET20,
    name="cifar10-resnet20-wide2",
    summary="cifar10-resnet20 at 1 to 4 bits with twice the channels in all blocks, at the BOPs of cifar10-resnet20's w2a2",
    network="resnet20-wide2",
    budget="188784640",
    choices=(1, 2, 3, 4),
    fidelity=Fidelity(finetune_steps=400),
)
CIFAR10_MOBILENETV2 = replace(
    CIFAR10_RESNET20,
    name="cifar10-mobilenetv2",
    summary="CIFAR-10, 32x32; MobileNetV2 of half the width, with depthwise convolutions",
    network="mobilenet_v2-half",
)

IMAGENET_RESNET18 = Definition(
    name="imagenet-resnet18",
    summary="ImageNet-style folders, 224x224; torchvision's resnet18",
    network="resnet18",
    dataset="imagenet",
    shape=(3, 224, 224),
    classes=1000,
    sigma=0.5,
    batch=50,
    threads=2,
    exam=ExamSettings(images=500),
)
IMAGENET_RESNET50 = replace(
    IMAGENET_RESNET18,
    name="imagenet-resnet50",
    summary="ImageNet-style folders, 224x224; torchvision's resnet50",
    network="resnet50",
)
IMAGENET_MOBILENETV2 = replace(
    IMAGENET_RESNET18,
    name="imagenet-mobilenetv2",
    summary="ImageNet-style folders, 224x224; torchvision's mobilenet_v2",
    network="mobilenet_v2",
)

FOLDER = Definition(
    name="folder",
    summary="your network (--network MODULE:FUNCTION) and your images (train/CLASS/*, val/CLASS/*)",
    network="",
    dataset="folder",
    shape=(3, 224, 224),
    classes=0,
    batch=50,
    threads=2,
    exam=ExamSettings(images=500),
)
