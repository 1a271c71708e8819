"""Logistic regression for a path of L2 constants, beside scikit-learn one constant at a time.

    python bench/logistic_path.py [--examples 10000] [--features 384] [--classes 100] [--constants 45] [--threads 1]
                                  [--every 1] [--device cpu] [--no-sklearn]

Features have the spectrum of an encoder's (eigenvalues fall as 1 / rank), in correlated axes. With ``--every 5``
only each fifth constant of the path is solved, by both. Printed are CPU seconds, and accuracies on other examples.
scikit-learn runs with its default tolerance in float32 and, with ``--float64``, in float64, its slower way. Ours should
be at least 3 times as fast, and the best accuracies should agree to a tenth of a point.
"""

import argparse
import sys
import time

import numpy as np
import torch

from stablerep.probes import PathConfig
from stablerep.probes.path import solve_path

LEAST_FASTER, MOST_APART = 3, 0.001


def examples(options: argparse.Namespace) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Training and test features with their classes."""
    rng = np.random.default_rng(0)
    axes = np.linalg.qr(rng.normal(size=(options.features, options.features)))[0]
    spectrum = np.arange(1, options.features + 1) ** -0.5
    centres = rng.normal(size=(options.classes, options.features)) * options.apart
    labels = rng.integers(0, options.classes, 2 * options.examples)
    features = (centres[labels] + rng.normal(size=(len(labels), options.features))) * spectrum @ axes
    half = options.examples
    return (
        features[:half].astype(np.float32),
        features[half:].astype(np.float32),
        labels[:half],
        labels[half:],
    )


def main() -> int:
    """Solve the path both ways and compare; 1 where a bar is missed."""
    parser = argparse.ArgumentParser(description="the path of logistic regressions, and scikit-learn's")
    parser.add_argument("--examples", type=int, default=10_000)
    parser.add_argument("--features", type=int, default=384)
    parser.add_argument("--classes", type=int, default=100)
    parser.add_argument("--constants", type=int, default=45)
    parser.add_argument("--every", type=int, default=1, help="solve each so many-th constant only")
    parser.add_argument("--apart", type=float, default=0.16, help="how far the classes lie apart")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--float64", action="store_true", help="scikit-learn in float64")
    parser.add_argument("--no-sklearn", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    train, test, labels, named = examples(options)
    config = PathConfig(num_l2=options.constants)
    constants = config.constants()[:: options.every]
    clock = time.process_time if options.device == "cpu" else time.perf_counter
    begin = clock()
    solutions = list(
        solve_path(train, labels, constants, config, num_classes=options.classes, device=options.device)
    )
    ours = clock() - begin
    accuracies = [float((found.logits(test).argmax(1).numpy() == named).mean()) for found in solutions]
    iterations = [found.iterations for found in solutions]
    describe("ours", ours, accuracies, iterations)
    if options.no_sklearn:
        return 0
    return 0 if report(*compare(options, (train, labels, test, named), constants, (ours, accuracies))) else 1


def describe(way: str, seconds: float, accuracies: list[float], iterations: list[int]) -> None:
    """One line for one way."""
    print(f"{way:12} {seconds:8.1f} s  best {100 * max(accuracies):.2f} %  {sum(iterations)} iterations")
    print(f"{'':12} per constant: {iterations}", flush=True)


def compare(
    options: argparse.Namespace,
    data: tuple[np.ndarray, ...],
    constants: list[float],
    ours: tuple[float, list[float]],
) -> tuple[float, float]:
    """scikit-learn on the same standardised features, one constant after another.

    Returns how many times faster ours is, and how far the best accuracies are apart.
    """
    from sklearn.linear_model import LogisticRegression

    train, labels, test, named = data
    dtype = np.float64 if options.float64 else np.float32
    mean, std = train.mean(0, dtype=np.float64), train.std(0, dtype=np.float64)
    inputs, queries = (((part - mean) / std).astype(dtype) for part in (train, test))
    begin, iterations, models = time.process_time(), [], []
    for l2 in constants:
        models.append(LogisticRegression(C=1 / l2, max_iter=1000).fit(inputs, labels))
        iterations.append(int(models[-1].n_iter_[0]))
    theirs = time.process_time() - begin
    accuracies = [float((model.predict(queries) == named).mean()) for model in models]
    describe("scikit-learn", theirs, accuracies, iterations)
    apart = np.abs(np.subtract(accuracies, ours[1])).max()
    print(
        f"{options.examples} x {options.features}, {options.classes} classes, {len(constants)} constants: "
        f"accuracies of one constant differ by at most {100 * apart:.2f} points"
    )
    return theirs / ours[0], abs(max(accuracies) - max(ours[1]))


def report(faster: float, apart: float) -> bool:
    """Print whether both bars are kept."""
    passed = faster >= LEAST_FASTER and apart <= MOST_APART
    print(
        f"{'PASSED' if passed else 'FAILED'}: {faster:.1f} times as fast as scikit-learn (bar {LEAST_FASTER}), best "
        f"accuracies {100 * apart:.2f} points apart (bar {100 * MOST_APART:.1f})"
    )
    return passed


if __name__ == "__main__":
    sys.exit(main())
