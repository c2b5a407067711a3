# %% [markdown]
# # Certify an exported model without bitcert
#
# Needs onnxruntime and numpy only, and what `bitcert export POLICY --problem digits --samples 20` wrote here.

# %%
import hashlib
import json
import math
import subprocess
import sys
from pathlib import Path
from statistics import NormalDist

import numpy as np
import onnxruntime

N0, N, ALPHA = 20, 1_000, 0.001

if not Path("model.json").exists():
    given = ["w3a4", "--problem", "digits", "--budget", "w4a4", "--samples", "20"]
    subprocess.run([sys.executable, "-m", "suite.cli", "export", *given], check=True, stdout=subprocess.DEVNULL)

about, content = json.loads(Path("model.json").read_text()), Path("model.onnx").read_bytes()
if hashlib.sha256(content).hexdigest() != about["file_sha256"]:
    raise SystemExit("model.onnx is not the file that model.json describes")
session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
with np.load("model.npz") as file:
    images, labels = file["images"], file["labels"]

# %% [markdown]
# The class is chosen with `N0` samples and counted with `N` others. The lower bound on its probability is Clopper and Pearson's:
# the smallest p for which so many successes are not too unlikely, found by bisection.


# %%
def lower_bound(successes: int) -> float:
    """Lower confidence bound on the probability, at level 1 - ALPHA."""
    counts, low, high = np.arange(successes, N + 1), 0.0, 1.0
    choose = np.array([math.lgamma(N + 1) - math.lgamma(k + 1) - math.lgamma(N - k + 1) for k in counts])
    for _ in range(50):
        p = (low + high) / 2
        tail = np.exp(choose + counts * math.log(p) + (N - counts) * math.log1p(-p)).sum()
        low, high = (p, high) if tail < ALPHA else (low, p)
    return low


sigma, rng, radii = about["problem"]["sigma"], np.random.default_rng(0), []
for image, label in zip(images, labels, strict=True):
    noisy = image + sigma * rng.standard_normal((N0 + N, *image.shape))
    votes = session.run(["logits"], {"images": noisy.astype(np.float32)})[0].argmax(1)
    chosen = np.bincount(votes[:N0]).argmax()
    bound = lower_bound(int((votes[N0:] == chosen).sum()))
    radii.append(sigma * NormalDist().inv_cdf(bound) if bound > 0.5 and chosen == label else 0.0)
print(f"average certified radius of {len(radii)} images: {np.mean(radii):.4f}")
