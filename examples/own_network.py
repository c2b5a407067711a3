# %% [markdown]
# # A network of your own
#
# Any classifier of `Conv2d` and `Linear` modules works. It takes images in [0, 1] and normalizes them itself, because
# smoothing adds its noise before normalization. A function without arguments returns it.

# %%
import torch
from safetensors.torch import save_file
from torch import nn

import suite
from suite.data import load_dataset


class SmallCNN(nn.Module):
    """Two convolutions and a linear layer for 8x8 gray images."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 16, 3, padding=1), nn.Conv2d(16, 32, 3, stride=2, padding=1)
        self.head = nn.Linear(32 * 16, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.conv1((images - 0.5) / 0.5))
        return self.head(torch.relu(self.conv2(x)).flatten(1))


def build() -> nn.Module:
    return SmallCNN()


# %% [markdown]
# Train it under Gaussian noise of the sigma that you certify at, and save its weights.

# %%
if __name__ == "__main__":
    torch.manual_seed(0)
    network, train = build(), load_dataset("digits").splits["train"]
    images, labels = train.images(), torch.from_numpy(train.labels)
    optimizer = torch.optim.Adam(network.parameters(), lr=2e-3)
    for _ in range(150):
        batch = torch.randint(len(images), (128,))
        noisy = images[batch] + 0.25 * torch.randn_like(images[batch])
        loss = nn.functional.cross_entropy(network(noisy), labels[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    save_file(network.state_dict(), "own_network.safetensors")

    # %%
    problem = suite.load_problem(
        "digits", network="own_network:build", checkpoint="own_network.safetensors", budget="w4a4", sigma=0.25
    )
    policy, fidelity = problem.space.uniform(4), suite.Fidelity(images=60, noise=32)
    print("layers:", ", ".join(f"{layer.name} ({layer.macs:,} MACs)" for layer in problem.space.layers))
    print(f"uniform 4 bits: ACR {problem.evaluate(policy, fidelity).acr:.3f}")
    print(f"float network:  ACR {problem.evaluate_float(fidelity).acr:.3f}")
