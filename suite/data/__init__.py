"""Datasets with fixed, disjoint splits: digits (embedded), MNIST, CIFAR-10 and ImageNet-style folders."""

from suite.data.datasets import DATASETS, load_dataset
from suite.data.images import ImageDataset, ImageSplit

__all__ = ["DATASETS", "ImageDataset", "ImageSplit", "load_dataset"]
