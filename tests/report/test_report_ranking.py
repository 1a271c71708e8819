"""Best, median and worst by match: the right pictures, each once, and none where nobody judged them."""

from pathlib import Path

from report_project import ORIGIN, write_paintings, write_world
from report_trends import write_matches

from stablerep.report.ranking import find_rankings
from stablerep.report.reading import open_project


def test_pictures_stand_in_the_order_of_their_match(tmp_path: Path) -> None:
    write_world(tmp_path / "world")
    write_paintings(tmp_path / "images.lance")
    assert find_rankings(open_project((tmp_path,), None, None, None)) == []
    write_matches(tmp_path / "images.lance")
    (ranking,) = find_rankings(open_project((tmp_path,), None, None, None))
    assert ranking.origin == ORIGIN and ranking.sentence.startswith("14 pictures by prompt match")
    rows = {name: [round(one.match, 2) for one in pictures] for name, pictures in ranking.rows}
    assert rows == {
        "best": [0.14, 0.13, 0.12, 0.11],
        "median": [0.09, 0.08, 0.07, 0.06],
        "worst": [0.04, 0.03, 0.02, 0.01],
    }
    assert ranking.rows[0][1][0].picture.source is not None
    assert all("caption " not in one.caption for one in ranking.rows[2][1])


def test_three_pictures_make_three_rows(tmp_path: Path) -> None:
    write_paintings(tmp_path / "images.lance", ("a red square",))
    write_matches(tmp_path / "images.lance")
    (ranking,) = find_rankings(open_project((tmp_path,), None, None, None))
    assert (
        len({one.picture.description for _, pictures in ranking.rows for one in pictures}) == 2
    )  # the first has failed
