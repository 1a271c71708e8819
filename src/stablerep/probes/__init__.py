"""What frozen features know: probes whose settings are chosen on validation examples only."""

from collections.abc import Callable, Mapping

from stablerep.probes.base import Labelled, Probe
from stablerep.probes.knn import KnnProbe, fit_knn
from stablerep.probes.linear import LinearProbe, fit_linear, fit_logistic
from stablerep.probes.metrics import mean_per_class_accuracy
from stablerep.probes.path import solve_path
from stablerep.probes.settings import PathConfig, ProbeConfig, SgdConfig
from stablerep.probes.sgd import SgdProbe, fit_sgd, fit_sgd_bn

__all__ = [
    "PROBES",
    "KnnProbe",
    "Labelled",
    "LinearProbe",
    "PathConfig",
    "Probe",
    "ProbeConfig",
    "SgdConfig",
    "SgdProbe",
    "fit_knn",
    "fit_linear",
    "fit_logistic",
    "fit_sgd",
    "fit_sgd_bn",
    "mean_per_class_accuracy",
    "solve_path",
]

PROBES: Mapping[str, Callable[[Labelled, Labelled, int, ProbeConfig], Probe]] = {
    "knn": fit_knn,
    "linear": fit_linear,
    "logistic": fit_logistic,
    "sgd": fit_sgd,
    "sgd-bn": fit_sgd_bn,
}
"""Every probe: (train, validation, number of classes, settings) -> the fitted probe."""
