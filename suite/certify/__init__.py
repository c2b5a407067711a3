"""Certified robustness by randomized smoothing: bounds, noise, and one file for each certification method."""

from suite.certify.aggregate import Score, SetCertificate, SetScores, certify_set, design_scores
from suite.certify.base_record import BaseRecord, BaseStore, record_base
from suite.certify.bounds import certified_radius, clopper_pearson_lower, clopper_pearson_upper, largest_radius
from suite.certify.certificates import ABSTAIN, Certificates
from suite.certify.fixed import CertificationWarning, bound_counts, certify, certify_fixed
from suite.certify.incremental import certify_incremental, certify_irs
from suite.certify.noise import NoiseStream
from suite.certify.ranking import (
    Estimates,
    Halving,
    PairedDifference,
    Rung,
    estimate,
    paired_difference,
    successive_halving,
)
from suite.certify.sampling import NoisyClassifier, NoisyImages, Sampler, pick_classes
from suite.certify.sequential import certify_sequential

__all__ = [
    "ABSTAIN",
    "BaseRecord",
    "BaseStore",
    "Certificates",
    "CertificationWarning",
    "Estimates",
    "Halving",
    "NoiseStream",
    "NoisyClassifier",
    "NoisyImages",
    "PairedDifference",
    "Rung",
    "Sampler",
    "Score",
    "SetCertificate",
    "SetScores",
    "bound_counts",
    "certified_radius",
    "certify",
    "certify_fixed",
    "certify_incremental",
    "certify_irs",
    "certify_sequential",
    "certify_set",
    "clopper_pearson_lower",
    "clopper_pearson_upper",
    "design_scores",
    "estimate",
    "largest_radius",
    "paired_difference",
    "pick_classes",
    "record_base",
    "successive_halving",
]
