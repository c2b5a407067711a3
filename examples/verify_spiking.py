# %% [markdown]
# # A spiking network without noise
#
# Over a few time steps, the integer form of a spiking network can be verified exactly: whether any image whose pixels differ by
# at most so many levels gets another class. Needs OR-tools: `pip install 'bitcert[exact]'`.

# %%
from collections import Counter

import torch

import suite
from suite.certify.linf.unrolled import verify_integer
from suite.quantize import QuantizedNetwork
from suite.quantize.integer import integer_network

LEVELS, DIGITS, WORK = 16, 4, 0.5
problem = suite.load_problem("spiking-digits")
bench, splits = problem.bench, problem.bench.dataset.splits
quantized = QuantizedNetwork(bench.network, problem.space.layers, bench.calibration)
quantized.set_policy(problem.space.uniform(4))
images, labels = splits["exam"].images(), torch.from_numpy(splits["exam"].labels)

# %% [markdown]
# The network was trained for ten steps. Cut to two, it still classifies, and all weights and states keep 4 bits. `work` limits the
# solver in steps, not in seconds; what it leaves undecided is unknown, never robust.

# %%
quantized.network.steps = 2
network = integer_network(quantized, [splits["calibration"].images()])
accuracy = (network(images).argmax(dim=1) == labels).float().mean()
print(f"{len(images)} digits, {quantized.network.steps} steps: accuracy {accuracy:.3f}")
for radius in (1, 2):
    verdicts = [
        verify_integer(network, (image * LEVELS).round(), int(label), radius, LEVELS, work=WORK)
        for image, label in zip(images[:DIGITS], labels[:DIGITS], strict=True)
    ]
    found, work = Counter(verdict.status for verdict in verdicts), sum(verdict.work for verdict in verdicts)
    print(
        f"{quantized.network.steps} steps, radius {radius}/{LEVELS}: {found['robust']} robust, {found['not robust']} not robust, "
        f"{found['unknown']} unknown; work {work:.2f}"
    )
