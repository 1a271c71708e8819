"""Protocols that name the class of a picture: probes on frozen features."""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from stablerep import config as config_module
from stablerep import runtime
from stablerep.evaluation.benchmarks import BENCHMARKS, Benchmark, Split
from stablerep.evaluation.contract import Classified, Measured, NotMeasurableError, Subject, Tools, described
from stablerep.evaluation.crops import NORMS, heads_on_crops
from stablerep.evaluation.intervals import Interval
from stablerep.evaluation.scores import Measurement
from stablerep.probes import PROBES, Labelled, Probe, ProbeConfig, SgdProbe, fit_logistic
from stablerep.probes.metrics import average_precisions, mean_average_precision
from stablerep.probes.sgd import choose_head

_MOST_REPLICATES = 200  # of mean average precision, each of which is a sort per class
_OWN_SETTINGS: Mapping[str, tuple[str, ...]] = {
    "knn": ("neighbours", "temperature", "centre", "metric", "refit"),
    "linear": ("linear", "metric"),
    "logistic": ("logistic", "metric"),
    "sgd": ("sgd", "metric"),
    "sgd-bn": ("sgd", "metric"),
}


@dataclass(frozen=True)
class ProbeProtocol:
    """One of ``PROBES`` on frozen features: fitted on the training split, chosen on validation, tested on the tests."""

    name: str
    config: ProbeConfig

    benchmarks = BENCHMARKS
    trains_baselines = True

    @property
    def settings(self) -> Mapping[str, Any]:
        """The settings that this probe reads."""
        every = config_module.to_dict(self.config)
        return {name: every[name] for name in _OWN_SETTINGS[self.name] if name in every}

    def measure(self, subject: Subject, data: Benchmark, tools: Tools) -> Measured:
        """Fit the probe and name every test picture; 11-point mAP where pictures have several classes."""
        labelled = _labels_of(subject, tools)
        if data.several:
            return self._several(subject, data, tools)
        config = self.config
        if config.metric is None and data.metric != "map11":
            config = dataclasses.replace(config, metric=data.metric)
        probe = self._fit(subject, data, config, tools)
        tests = {name: labelled(split) for name, split in data.tests.items()}
        official = {}
        if isinstance(probe, SgdProbe):
            official = {name: probe.official_maximum(test) for name, test in tests.items()}
        return Classified(
            predicted={name: probe.probabilities(test.features).argmax(1) for name, test in tests.items()},
            chosen=probe.chosen,
            chosen_on="validation",
            validation_accuracy=probe.validation_accuracy,
            note=probe.note,
            official=official,
        )

    def _fit(self, subject: Subject, data: Benchmark, config: ProbeConfig, tools: Tools) -> Probe:
        labelled = _labels_of(subject, tools)
        config = config.on(str(runtime.pick_device(tools.device)))
        if self.name in NORMS and config.sgd.crops:
            trained = heads_on_crops(self.name, subject, data, config.sgd, tools)
            return choose_head(trained, labelled(data.validation), config)
        return PROBES[self.name](labelled(data.train), labelled(data.validation), len(data.classes), config)

    def _several(self, subject: Subject, data: Benchmark, tools: Tools) -> list[Measurement]:
        if self.name != "logistic":
            raise NotMeasurableError(
                f"{data.name}: pictures have several classes, which `logistic` alone of the probes can learn"
            )
        labelled = _labels_of(subject, tools)
        config = self.config.on(str(runtime.pick_device(tools.device)))
        probe = fit_logistic(labelled(data.train), labelled(data.validation), len(data.classes), config)
        num = min(tools.num_bootstrap, _MOST_REPLICATES)
        fewer = f"interval from {num} replicates" if num < tools.num_bootstrap else ""
        return [
            Measurement(
                **described(subject, data.name, name, self.name),
                metrics={
                    "map11": _map_interval(
                        split, probe.probabilities(labelled(split).features), num=num, seed=tools.seed
                    )
                },
                chance={"map11": mean_average_precision(split.labels, np.zeros(split.labels.shape))},
                settings=self.settings,
                chosen=probe.chosen,
                chosen_on="validation",
                sizes={"num_pictures": len(split), "num_classes": len(data.classes)},
                note="; ".join(filter(None, (probe.note, fewer))),
            )
            for name, split in data.tests.items()
        ]


def _labels_of(subject: Subject, tools: Tools) -> Callable[[Split], Labelled]:
    return lambda split: Labelled(tools.features(subject.encoder, split.images), split.labels)


def _map_interval(split: Split, scores: np.ndarray, *, num: int, seed: int) -> Interval:
    """Mean average precision with its bootstrap interval over groups of pictures."""
    names, group = np.unique(np.asarray(split.groups), return_inverse=True)
    rng = runtime.numpy_generator("bootstrap of mAP", seed)
    replicates = []
    for _ in range(num):
        drawn = np.bincount(rng.integers(len(names), size=len(names)), minlength=len(names))
        replicates.append(np.nanmean(average_precisions(split.labels, scores, drawn[group])))
    value = mean_average_precision(split.labels, scores)
    return Interval.of_share(value, np.array(replicates), len(names))
