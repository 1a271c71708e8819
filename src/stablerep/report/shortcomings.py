"""What was not good, stated plainly: failures, runs that stopped, weak classes, benchmarks that were skipped."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from stablerep.report.fidelity import Fidelity
from stablerep.report.pictures import Painting
from stablerep.report.reading import Project, RunFolder
from stablerep.report.settings import grouped

_EXAMPLES = 3


@dataclass(frozen=True, kw_only=True)
class Shortcomings:
    """Sentences under one heading."""

    title: str
    sentences: tuple[str, ...]


def find_shortcomings(
    project: Project, paintings: Sequence[Painting], fidelity: Sequence[Fidelity], measuring: Sequence[str]
) -> list[Shortcomings]:
    """All that went wrong, by topic; ``measuring`` are the sentences about scores. Empty topics are left out."""
    topics = {
        "Pictures": [*_about_pictures(project, paintings), *(painter.weakest for painter in fidelity)],
        "Training": [sentence for run in project.runs for sentence in _about_run(run)],
        "Measuring": list(measuring),
    }
    return [Shortcomings(title=title, sentences=tuple(found)) for title, found in topics.items() if found]


def _about_pictures(project: Project, paintings: Sequence[Painting]) -> list[str]:
    sentences = []
    for painting in paintings:
        for reason, caption_ids in painting.failures.items():
            sentences.append(
                f"{_pictures(len(caption_ids))} of {painting.origin} failed: {reason}{_examples(project, caption_ids)}."
            )
        fewest, most = painting.per_caption
        if fewest < most:
            sentences.append(
                f"{painting.origin} has between {fewest} and {most} pictures per caption: painting is not complete, or "
                "some were painted again after an audit."
            )
    return sentences


def _pictures(count: int) -> str:
    return "1 picture" if count == 1 else f"{grouped(count)} pictures"


def _examples(project: Project, caption_ids: Sequence[str]) -> str:
    worst = [identity for identity, _ in Counter(caption_ids).most_common(_EXAMPLES)]
    texts = project.texts(worst)
    named = [f"“{texts[identity]}”" for identity in worst if identity in texts]
    return f" (for example {', '.join(named)})" if named else ""


def _about_run(run: RunFolder) -> list[str]:
    sentences = []
    if run.product is None:
        last = f"; its last record is of step {grouped(run.metrics[-1]['step'])}" if run.metrics else ""
        sentences.append(f"{run.name} ({run.kind}) did not finish, nothing was exported{last}.")
    if any(run.path.glob("nonfinite-rank*.pt")):
        sentences.append(
            f"{run.name} ({run.kind}) met a loss that was not a finite number; the batch is kept in its folder."
        )
    if not run.metrics:
        sentences.append(f"{run.name} ({run.kind}) logged no loss.")
    return sentences
