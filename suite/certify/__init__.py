"""Certified robustness by randomized smoothing: bounds, noise, and one file for each certification method."""

from suite.certify.aggregate import certify_set, design_scores
from suite.certify.base_record import BaseRecord, BaseStore, record_base
from suite.certify.bounds import (
    CertificationWarning,
    certified_radius,
    clopper_pearson_lower,
    clopper_pearson_upper,
    largest_radius,
)
from suite.certify.certificates import ABSTAIN, Certificates, SetCertificate
from suite.certify.certifier import Certifier, ExamCertifier, Measurement, Setup, Task
from suite.certify.exact import Reproducible
from suite.certify.fixed import certify, certify_fixed
from suite.certify.incremental import certify_incremental, certify_irs
from suite.certify.noise import NoiseStream
from suite.certify.ranking import Estimates, estimate
from suite.certify.sampling import NoisyClassifier, NoisyImages, Sampler
from suite.certify.sequential import certify_sequential
from suite.certify.set_scores import Score, SetScores

__all__ = [
    "ABSTAIN",
    "BaseRecord",
    "BaseStore",
    "Certificates",
    "CertificationWarning",
    "Certifier",
    "Estimates",
    "ExamCertifier",
    "Measurement",
    "NoiseStream",
    "NoisyClassifier",
    "NoisyImages",
    "Reproducible",
    "Sampler",
    "Score",
    "SetCertificate",
    "SetScores",
    "Setup",
    "Task",
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
    "record_base",
]
