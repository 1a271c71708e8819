"""A matrix of runs under equal conditions: arms (method and source) x numbers of captions x seeds.

Every arm gets the same captions, the same number of updates and of pictures seen, and the same number of tries at its
learning rate. Every stage goes on where a stopped comparison left it.
"""

import json
from collections.abc import Mapping, Sequence
from functools import partial

from stablerep import config as config_module
from stablerep import runtime
from stablerep.console import Console
from stablerep.errors import UserError
from stablerep.evaluation.measuring import Known
from stablerep.locks import together
from stablerep.report.comparison import draw_comparison
from stablerep.run import provenance, write_text
from stablerep.workflows.compare_results import Comparison, MetricRow, Row, metric_rows_of, rows_of
from stablerep.workflows.matrix import Cell, CompareConfig, Matrix


def compare(
    config: CompareConfig,
    *,
    console: Console = Console(quiet=True),  # noqa: B008
    known: Known | None = None,
) -> Comparison:
    """Paint, train, measure and summarise what is missing; writes compare.json and compare.png.

    Several processes that are given the same comparison at once share its runs, on any number of machines that see the
    folder. ``known`` gathers what is found of baselines, which further comparisons on the same data need not measure
    again. Raises ``UserError`` where the arms cannot see the same captions or the same number of pictures, and where no
    protocol of the recipe can measure them, before anything is painted as far as that can be known.
    """
    runtime.require_one_process()
    matrix = Matrix(config, {} if known is None else known, console)
    matrix.check_protocols()
    matrix.prepare()
    cells = [(arm, num) for num in config.num_captions for arm in config.arms]
    searched = _searched(matrix, cells, console) if config.learning_rates else {}
    rates = {cell: _best(cell, reached) for cell, reached in searched.items()}
    tables = [(num, seed) for num in config.num_captions for seed in config.seeds]
    measured = together([partial(matrix.measure, *table, rates) for table in tables], console)
    rows: list[Row] = []
    metrics: list[MetricRow] = []
    for num in config.num_captions:
        scores = [scores for (of, _), scores in zip(tables, measured, strict=True) if of == num]
        rows += rows_of(config.arms, num, scores)
        metrics += metric_rows_of(config.arms, num, scores)
    if not rows:
        raise UserError(
            f"recipe {config.settings}: no protocol gave accuracies on its benchmarks; what was measured is in "
            f"{config.out / 'scores'}; add the benchmark of the world to [evaluate]"
        )
    found = Comparison(
        path=config.out / "compare.json",
        figure=draw_comparison([row.point for row in rows], config.out / "compare.png"),
        views_per_step={f"{arm} {num}": matrix.views[arm, num].counting for arm, num in cells},
        searched={
            f"{arm} {num}": {f"{rate:g}": accuracy for rate, accuracy in reached.items()}
            for (arm, num), reached in searched.items()
        },
        learning_rates={f"{arm} {num}": rate for (arm, num), rate in rates.items()},
        rows_found=tuple(rows),
        metrics_found=tuple(metrics),
    )
    asked = config_module.to_dict(config) | {"world": config.chosen_world}
    content = {"config": asked, "provenance": provenance(), **found.to_json()}
    write_text(found.path, json.dumps(content, indent=2) + "\n")
    console.say(f"{found.path}, {found.figure}")
    return found


def _searched(
    matrix: Matrix, cells: Sequence[Cell], console: Console
) -> dict[Cell, dict[float, float | None]]:
    """What each learning rate reaches on validation, None where the loss did not stay finite."""
    rates = matrix.config.learning_rates
    tries = [(cell, rate) for cell in cells for rate in rates]
    reached = together([partial(matrix.reached, *cell, rate) for cell, rate in tries], console)
    found = dict(zip(tries, reached, strict=True))
    return {cell: {rate: found[cell, rate] for rate in rates} for cell in cells}


def _best(cell: Cell, reached: Mapping[float, float | None]) -> float:
    finite = {rate: accuracy for rate, accuracy in reached.items() if accuracy is not None}
    if not finite:
        raise UserError(
            f"{cell[0]} with {cell[1]} captions: the loss did not stay finite at any learning rate of "
            f"{', '.join(f'{rate:g}' for rate in reached)}; try smaller ones (--learning-rates)"
        )
    return max(finite, key=finite.__getitem__)
