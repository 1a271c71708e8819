"""Attributes files: what the documentation shows can be read, and mistakes are named."""

from pathlib import Path

import pytest

from stablerep.audit import attributes
from stablerep.audit.attributes import read_attributes
from stablerep.errors import UserError


def test_the_file_that_the_documentation_shows_can_be_read(tmp_path: Path) -> None:
    shown = [line for line in str(attributes.__doc__).splitlines() if line.startswith("    ")]
    (tmp_path / "attributes.toml").write_text("\n".join(shown))
    [(name, gender)] = read_attributes(tmp_path / "attributes.toml").items()
    assert (name, gender.names) == ("gender", ["man", "woman"])
    assert gender.target == {"man": 0.5, "woman": 0.5} and "doctors" in gender.groups
    said = {text: gender.stated(text) for text in ("a man", "a woman", "a mandarin")}
    assert said == {"a man": 0, "a woman": 1, "a mandarin": -1}
    assert gender.concerns("a woman") and not gender.concerns("a mandarin")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[attributes.a.values]\nred = 'red'\n", "at least two values"),
        ("[attributes.a.values]\nred = '('\nblue = 'b'\n", "no regular expression"),
        ("[attributes.a]\nvalue = 1\n", "value"),
        (
            "[attributes.a.values]\nred = ['red', 'crimson']\nblue = 'b'\n",
            r"'values' must be dict\[str, str\]",
        ),
        ("[attributes.a.target]\nred = 'half'\n", r"'target' must be dict\[str, float\]"),
        ("x = 1\n", r"\[attributes.NAME\]"),
        (
            "[attributes.a.values]\nr = 'r'\nb = 'b'\n[attributes.a.target]\nr = 0.5\nb = 0.6\n",
            "one together",
        ),
        (
            "[attributes.a.values]\nr = 'r'\nb = 'b'\n[attributes.a.target]\nr = 1.5\nb = -0.5\n",
            "a share from 0",
        ),
    ],
)
def test_mistakes_in_the_file_are_named(text: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "attributes.toml"
    path.write_text(text)
    with pytest.raises(UserError, match=said):
        read_attributes(path)
