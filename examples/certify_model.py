# %% [markdown]
# # Certify an exported model without bitcert
#
# Needs onnxruntime and numpy only. First: `bitcert export POLICY --problem digits --budget w3a3 --samples 20`.

# %%
import hashlib
import json
import math
from pathlib import Path
from statistics import NormalDist

import numpy as np
import onnxruntime

N0, N, ALPHA = 20, 1_000, 0.001

about = json.loads(Path("model.json").read_text())
content = Path("model.onnx").read_bytes()
if hashlib.sha256(content).hexdigest() != about["file_sha256"]:
    raise SystemExit("model.onnx is not the file that model.json describes")
session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
with np.load("model.npz") as file:
    held_out = dict(file)
sigma, rng = about["problem"]["sigma"], np.random.default_rng(0)


# %% [markdown]
# The class is chosen with `N0` samples and counted with `N` others. The lower bound on its probability is Clopper and Pearson's:
# the smallest p for which so many successes are not too unlikely, found by bisection.


# %%
def tail(successes: int, p: float) -> float:
    """Probability of at least so many successes in N trials."""
    counts = np.arange(successes, N + 1)
    choose = [math.lgamma(N + 1) - math.lgamma(k + 1) - math.lgamma(N - k + 1) for k in counts]
    return float(np.exp(choose + counts * math.log(p) + (N - counts) * math.log1p(-p)).sum())


def lower_bound(successes: int) -> float:
    """Lower confidence bound on the probability, at level 1 - ALPHA."""
    low, high = 0.0, successes / N
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if tail(successes, middle) < ALPHA else (low, middle)
    return low


radii = []
for image, label in zip(held_out["images"], held_out["labels"], strict=True):
    noisy = image + sigma * rng.standard_normal((N0 + N, *image.shape))
    (logits,) = session.run(["logits"], {"images": noisy.astype(np.float32)})
    votes = logits.argmax(1)
    chosen = np.bincount(votes[:N0]).argmax()
    bound = lower_bound(int((votes[N0:] == chosen).sum()))
    radii.append(sigma * NormalDist().inv_cdf(bound) if bound > 0.5 and chosen == label else 0.0)
print(f"average certified radius of {len(radii)} images: {np.mean(radii):.4f}")
