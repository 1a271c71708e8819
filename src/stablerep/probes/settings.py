"""Settings of the probes, as published where a paper says."""

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from stablerep import runtime
from stablerep.probes.metrics import Metric

AUTO = "auto"


@dataclass(frozen=True, kw_only=True)
class PathConfig:
    """Constants of a logistic regression, and how far each is solved; the defaults are SynCLR's (appendix B.5)."""

    strongest_l2: float = 1e5
    """Strongest L2 constant beside the sum of cross-entropies of standardised features."""
    weakest_l2: float = 1e-6
    """Weakest L2 constant."""
    num_l2: int = 45
    """Log-spaced constants from the strongest to the weakest."""
    max_iterations: int = 1000
    """L-BFGS iterations per constant."""
    tolerance: float = 1e-5
    """Solved when no component of the gradient of the mean loss exceeds this. scikit-learn stops at 1e-4; after a warm
    start that is still so far from the optimum that accuracies of weak constants move by points."""
    together: int | None = None
    """Constants that are solved at once; one after another on a CPU, all on a GPU where not given."""
    refit: bool = True
    """After the choice, train again on training and validation examples together, as published."""
    device: str = AUTO
    """Where the path is solved: auto, cpu, cuda; auto is where encoders compute in `evaluate`, the CPU elsewhere."""

    def __post_init__(self) -> None:
        if not 0 < self.weakest_l2 <= self.strongest_l2:
            raise ValueError(
                f"weakest_l2 {self.weakest_l2} must be positive and at most strongest_l2 {self.strongest_l2}"
            )
        if min(self.num_l2, self.max_iterations, self.together or 1) < 1 or self.tolerance <= 0:
            raise ValueError("num_l2, max_iterations, together and tolerance must be positive")

    def constants(self) -> list[float]:
        """The constants, strongest first."""
        return [float(value) for value in np.geomspace(self.strongest_l2, self.weakest_l2, self.num_l2)]


@dataclass(frozen=True, kw_only=True)
class SgdConfig:
    """Settings of the published linear probe (StableRep, `main_linear.py`): one head for each learning rate."""

    learning_rates: tuple[float, ...] = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5)
    """Learning rates for a batch of 256, each with a head of its own; multiplied by batch_size / 256."""
    num_epochs: int = 90
    """Passes over the training pictures, the learning rate falling to zero along a cosine."""
    batch_size: int = 1024
    """Pictures per step; all of them where there are fewer."""
    momentum: float = 0.9
    """Momentum of SGD."""
    check_every: int = 10
    """Epochs between two looks at the validation pictures."""
    crops: bool = True
    """Train on a new random crop, mirrored or not, of every picture in every epoch; else on the pictures as tests are
    seen, whose features are computed once."""
    crop_scale: tuple[float, float] = (0.08, 1.0)
    """Area of a crop, as a share of the picture's."""
    refit: bool = False
    """Train further heads beside the others, on training and validation pictures together; after the choice these are
    measured."""
    device: str = AUTO
    """Where the heads are trained: auto, cpu, cuda; auto is where encoders compute in `evaluate`, the CPU elsewhere."""
    seed: int = 0
    """Seed of the heads, of the order and of the crops."""

    def __post_init__(self) -> None:
        if not self.learning_rates or min(self.learning_rates) <= 0:
            raise ValueError(f"learning_rates must be positive, got {self.learning_rates}")
        if min(self.num_epochs, self.batch_size, self.check_every) < 1:
            raise ValueError("num_epochs, batch_size and check_every must be positive")
        if not 0 < self.crop_scale[0] <= self.crop_scale[1] <= 1:
            raise ValueError(f"crop_scale must be two shares in rising order, got {self.crop_scale}")


@dataclass(frozen=True, kw_only=True)
class ProbeConfig:
    """Settings of the probes; what the data decides is chosen on the validation split."""

    neighbours: tuple[int, ...] = (1, 5, 10, 20, 50)
    """Candidates for k, the neighbours that vote."""
    temperature: float = 0.07
    """A neighbour votes with weight exp(cosine / temperature), as in DINO."""
    centre: bool = True
    """Subtract the training mean before the cosine, so that what all pictures share (white paper) does not
    count; DINO does not."""
    refit: bool = False
    """After the choice of k, training and validation examples vote together."""
    metric: Metric | None = None
    """The accuracy that chooses: top1 or mean_per_class; that of the benchmark where not given."""
    linear: PathConfig = field(
        default_factory=lambda: PathConfig(
            strongest_l2=1e3, weakest_l2=1e-3, num_l2=13, tolerance=3e-5, refit=False
        )
    )
    """Settings of the protocol `linear`. A third of this tolerance took twice the time and moved the test accuracies of
    10,000 photographs by at most 0.02 points around the best constant."""
    logistic: PathConfig = field(default_factory=PathConfig)
    """Settings of the protocol `logistic`."""
    sgd: SgdConfig = field(default_factory=SgdConfig)
    """Settings of the protocols `sgd` and `sgd-bn`."""

    def __post_init__(self) -> None:
        if not self.neighbours or min(self.neighbours) < 1:
            raise ValueError(f"neighbours must be positive, got {self.neighbours}")
        if self.temperature <= 0:
            raise ValueError(f"temperature must be positive, got {self.temperature}")

    def on(self, device: str) -> "ProbeConfig":
        """These settings with this device in place of every `auto`."""
        parts: dict[str, Any] = {"linear": self.linear, "logistic": self.logistic, "sgd": self.sgd}
        return replace(
            self,
            **{name: replace(part, device=device) for name, part in parts.items() if part.device == AUTO},
        )


def device_named(name: str) -> torch.device:
    """Where a probe is fitted; ``auto`` is the CPU here, where no encoder is at hand. Errors as ``pick_device``."""
    return runtime.pick_device("cpu" if name == AUTO else name)
