# %% [markdown]
# # A certificate of your own classifier
#
# `certify` is Cohen, Rosenfeld and Kolter's certificate for any PyTorch classifier; nothing else of bitcert is needed. The
# classifier below thresholds the mean of an image, so its true radius is known in closed form.

# %%
import numpy as np
import torch
from torch import nn

from suite.certify import certify

SIDE, SIGMA = 8, 0.25


class MeanClassifier(nn.Module):
    """Class 1 if the mean pixel exceeds 1/2, else class 0."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        excess = images.mean(dim=(1, 2, 3)) - 0.5
        return torch.stack([-excess, excess], dim=1)


# %% [markdown]
# The boundary is a hyperplane, at an L2 distance of `side * |mean - 1/2|`. The certificate is a lower bound of it that fails
# with probability at most `alpha` for each image.

# %%
means = np.array([0.50, 0.52, 0.55, 0.60])
images = torch.from_numpy(means).float().reshape(-1, 1, 1, 1).expand(-1, 1, SIDE, SIDE)
labels = np.array([1, 1, 1, 1])
certificates = certify(MeanClassifier().eval(), images, labels, sigma=SIGMA, n0=100, n=10_000, alpha=1e-3, seed=0)

# %%
print("  mean  prediction  certified  true distance")
for mean, prediction, radius in zip(means, certificates.prediction, certificates.radius, strict=True):
    print(
        f"{mean:6.2f}  {'abstains' if prediction < 0 else prediction:>10}  {radius:9.3f}  {SIDE * abs(mean - 0.5):13.3f}"
    )
print(f"ACR {certificates.acr(labels):.3f}; certified accuracy {certificates.certified_accuracy(labels, [0.25, 0.5])}")
