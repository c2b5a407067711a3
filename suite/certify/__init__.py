"""Certified robustness by randomized smoothing: bounds, noise, and one file for each certification method."""

from suite.certify.bounds import certified_radius, clopper_pearson_lower, clopper_pearson_upper, largest_radius
from suite.certify.certificates import ABSTAIN, Certificates
from suite.certify.fixed import CertificationWarning, certify
from suite.certify.noise import NoiseStream

__all__ = [
    "ABSTAIN",
    "Certificates",
    "CertificationWarning",
    "NoiseStream",
    "certified_radius",
    "certify",
    "clopper_pearson_lower",
    "clopper_pearson_upper",
    "largest_radius",
]
