"""What the terminal gets: results on stdout, all else on stderr, nothing from outside as markup, nothing too wide."""

import io
import json
import re
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import pytest

from stablerep.console import Console, plain

HOSTILE = "a [red]cat[/red] \x1b[31mred\x1b[0m \x9b2J \u202etxt \ud83d :apple:\r\nsecond\tline"


@pytest.fixture(autouse=True)
def eighty_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where there is no terminal; another width is set by the test that means it."""
    for name in ("COLUMNS", "FORCE_COLOR", "CLICOLOR_FORCE", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def test_text_from_outside_is_shown_as_it_is_without_its_controls() -> None:
    assert plain(HOSTILE) == "a [red]cat[/red] [31mred[0m 2J txt \ufffd :apple: second line"
    assert plain("a naïve 猫 👩‍🚀 caption") == "a naïve 猫 👩‍🚀 caption"


def test_every_way_to_the_terminal_neutralises_it(capsys: pytest.CaptureFixture[str]) -> None:
    console = Console()
    console.say(HOSTILE)
    console.complain(HOSTILE)
    with console.progress(HOSTILE, 3, "pictures") as progress:
        progress.advance(3, note=HOSTILE)
    console.table(HOSTILE, (HOSTILE, "n"), [[HOSTILE, "1"]])
    console.facts({HOSTILE: HOSTILE, "more": {HOSTILE: 3}})
    out, err = capsys.readouterr()
    for text in (out, err):
        assert "[red]cat[/red]" in text
        assert not any(ord(char) < 32 and char != "\n" for char in text)
        assert not any(char in text for char in "\x7f\x9b\u202e\ud83d")
    assert err.count("\n") == 3, "a sentence is one line where stderr is piped"


def test_results_go_to_stdout_and_the_rest_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    console = Console()
    console.say("a sentence " * 12)
    with console.progress("painting", 5, "pictures", done=2) as progress:
        progress.advance(3)
    console.facts({"loss": 0.5})
    out, err = capsys.readouterr()
    assert out == "loss   0.5\n"
    first, second = err.splitlines()
    assert first.split() == ["a", "sentence"] * 12
    assert re.match(r"painting: 3 pictures in \d+\.\d s \([\d.,]+/s\)", second)


def test_quiet_silences_all_but_results_and_errors(capsys: pytest.CaptureFixture[str]) -> None:
    console = Console(quiet=True)
    console.say("a sentence")
    with console.progress("painting", 5, "pictures") as progress:
        progress.advance(5)
    assert capsys.readouterr() == ("", "")
    console.complain("a mistake")
    console.facts({"loss": 0.5})
    assert capsys.readouterr() == ("loss   0.5\n", "a mistake\n")


def test_progress_without_work_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with Console().progress("painting", 5, "pictures", done=5):
        pass
    assert capsys.readouterr() == ("", "")


def test_long_work_says_every_minute_how_far_it_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = 1000.0
    monkeypatch.setattr("stablerep.console.time.monotonic", lambda: now)
    with Console().progress("painting", 1500, "pictures", done=500) as progress:
        for count in (60, 60, 0, 120):
            now += 30.0
            progress.advance(count, note="1 failed")
        now += 300.0
    assert capsys.readouterr().err.splitlines() == [
        "painting: 620 of 1,500 pictures, 2.0/s, 7 min 20 s left, 1 failed",
        "painting: 740 of 1,500 pictures, 2.0/s, 6 min 20 s left, 1 failed",
        "painting: 240 pictures in 420.0 s (0.6/s)",
    ]


def test_work_of_unknown_length_is_counted_without_an_end(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = 1000.0
    monkeypatch.setattr("stablerep.console.time.monotonic", lambda: now)
    with Console().progress("reading", None, "images") as progress:
        now += 100.0
        progress.advance(1200)
    assert capsys.readouterr().err.splitlines() == [
        "reading: 1,200 images, 12.0/s",
        "reading: 1,200 images in 100.0 s (12.0/s)",
    ]
    terminal = Terminal()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stderr", terminal)
    with Console().progress("reading", None, "images") as progress:
        progress.advance(7)
    assert "7/?" in terminal.getvalue()


def test_a_terminal_gets_a_bar_and_no_closing_line(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stderr", terminal)
    with Console().progress("painting [i]", 5, "pictures") as progress:
        progress.advance(5, note="loss 0.5")
    shown = terminal.getvalue()
    assert "painting [i]" in shown
    assert "5/5" in shown
    assert "loss 0.5" in shown
    assert "painting [i]: 5" not in shown


def test_a_broken_progress_passes_the_error_on(capsys: pytest.CaptureFixture[str]) -> None:
    with (
        pytest.raises(RuntimeError, match="burst"),
        Console().progress("painting", 5, "pictures") as progress,
    ):
        progress.advance(1)
        raise RuntimeError("burst")
    assert capsys.readouterr().err == ""


HEADER = ("test", "encoder", "protocol", "per class, %", "run ahead by", "top-1, %", "pictures")
ROWS = [
    [f"icons: {test}", encoder, protocol, "100.0 [100.0, 100.0]", ahead, "55.3 [53.2, 57.1]", "2234"]
    for test in ("test captions, training styles", "test captions, held-out style")
    for encoder, ahead in (("stablerep", ""), ("untrained encoder", "+12.0 [+10.1, +14.0]"))
    for protocol in ("knn", "linear")
]


def printed(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return [line.rstrip() for line in capsys.readouterr().out.splitlines()]


def test_a_table_that_fits_is_printed_whole(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    Console().table("Scores", HEADER, ROWS)
    title, header, rule, *rows = printed(capsys)
    assert title == "Scores"
    assert all(name in header for name in HEADER)
    assert set(rule) == {"─"}
    assert [[cell for cell in row if cell] for row in ROWS] == [
        [cell.strip() for cell in row.split("   ") if cell.strip()] for row in rows
    ]
    assert rows[0].endswith("       2234"), "numbers are flush right"


@pytest.mark.parametrize(("columns", "last"), [(50, 4), (64, 4), (80, 5), (100, 7)])
def test_no_table_is_wider_than_the_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, columns: int, last: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    Console().table("", HEADER, ROWS)
    lines = printed(capsys)
    assert max(map(len, lines)) <= columns
    assert lines.count("icons: test captions, training styles") == 1, "rows of one test stand under it"
    assert sum("100.0 [100.0, 100.0]" in line for line in lines) == len(ROWS), "no number is broken"
    left_out = " ".join(lines).partition("left out, for want of room: ")[2]
    assert [name for name in HEADER if name in left_out] == list(HEADER[last:])


def test_long_text_is_wrapped_rather_than_numbers_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    Console().table("", ("caption", "share"), [["word " * 30, "12.5"], ["x" * 100, "3"]])
    lines = printed(capsys)
    assert max(map(len, lines)) <= 80
    assert "".join(lines).count("word") == 30
    assert "".join(lines).count("x") == 100
    assert "12.5" in lines[2]


def test_long_text_in_two_columns_shares_the_room(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [["what an audit measured " * 2, "name 12.5, " * 12], ["short", "3 (5 %)"]]
    Console().table("", ("", "value"), rows)
    lines = printed(capsys)
    assert max(map(len, lines)) <= 80
    assert "what an audit measured" in "".join(lines), "words are not broken"
    assert "".join(lines).count("12.5,") == 12
    assert len(lines) < 10


def test_an_empty_table_has_its_header(capsys: pytest.CaptureFixture[str]) -> None:
    Console().table("", ("a", "b"), [])
    assert printed(capsys)[0].split() == ["a", "b"]


@dataclass(frozen=True, kw_only=True)
class Plain:
    path: Path = Path("x") / ("long" * 40)
    num_images: int = 1234567
    loss: float = 0.123456
    seconds: float = 12345.6
    done: bool = True
    nothing: int | None = None
    empty: dict[str, int] = field(default_factory=dict)
    by_split: dict[str, int] = field(default_factory=lambda: {"train": 5219, "the test": 2234})
    by_label: dict[str, int] = field(default_factory=lambda: {f"label {n}": n for n in range(40)})
    set_aside: tuple[dict[str, object], ...] = ({"file": "a.txt", "line": 3},) * 12


def test_any_summary_is_readable(capsys: pytest.CaptureFixture[str]) -> None:
    Console().show(Plain())
    lines = printed(capsys)
    text = "\n".join(lines)
    assert f"path         x/{'long' * 40}" in lines, "a path stays whole, so that it can be copied"
    assert max(len(line) for line in lines if "long" not in line) <= 80
    for line in ("num images   1,234,567", "loss         0.1235", "seconds      12,346", "done         yes"):
        assert line in lines
    assert "by split     train 5,219, the test 2,234" in lines
    assert "nothing" not in text
    assert "empty" not in text
    assert "label 39 39" in text
    assert "label 3 3" not in text
    assert text.count("and 30 more (all with --json)") == 1
    assert text.count("file a.txt, line 3") == 10
    assert text.count("and 2 more (all with --json)") == 1


class Scored:
    HEADER: ClassVar[tuple[str, ...]] = ("encoder", "score")

    def rows(self) -> list[list[str]]:
        return [["mine", "1.5"]]


class Shown(Scored):
    def show(self, console: Console) -> None:
        console.facts({"mine": 1})


def test_a_summary_is_shown_in_its_own_way(capsys: pytest.CaptureFixture[str]) -> None:
    console = Console()
    console.show(Scored())
    assert printed(capsys)[-1].split() == ["mine", "1.5"]
    console.show(Shown())
    assert printed(capsys) == ["mine   1"]
    console.show(Path("report/index.html"))
    assert printed(capsys) == ["path   report/index.html"]


class Jsoned:
    def to_json(self) -> dict[str, object]:
        return {
            "path": Path("a/b"),
            "share": float("nan"),
            "rows": ({"x": float("inf")}, [1, None, True, "é\x1b"]),
        }


def strictly(text: str) -> object:
    def refuse(constant: str) -> None:
        raise ValueError(constant)

    return json.loads(text, parse_constant=refuse)


def test_json_is_one_strict_document(capsys: pytest.CaptureFixture[str]) -> None:
    console = Console()
    console.json(Jsoned())
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert strictly(out) == {"path": "a/b", "share": None, "rows": [{"x": None}, [1, None, True, "é\x1b"]]}
    console.json(Plain())
    assert strictly(capsys.readouterr().out)["by_label"]["label 39"] == 39  # type: ignore[index]
    console.json(Path("a"))
    assert strictly(capsys.readouterr().out) == {"path": "a"}


def test_what_json_cannot_say_is_a_bug_and_not_a_string() -> None:
    with pytest.raises(TypeError):
        Console().json({"x": object()})
