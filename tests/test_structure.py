"""The shape of the repository: who imports whom, how large things grow, what is documented, what is not said.

Every rule is also tried on a snippet that breaks it: a check that cannot fail checks nothing.
"""

import re
import subprocess
from collections.abc import Callable, Iterator

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from structure_rules import (
    MAX_FUNCTION_LINES,
    MAX_MODULE_LINES,
    PROJECT,
    ROOT,
    RULES,
    Module,
    argument_count,
    docstrings,
    forbidden_text,
    function_length,
    import_order,
    module_length,
    printing,
    read,
    top_level_imports,
)

# -- the repository ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def texts() -> list[Module]:
    """The text files that are tracked."""
    command = ["git", "ls-files", "-z"]
    try:
        listing = subprocess.run(command, cwd=ROOT, capture_output=True, check=True, text=True).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"the list of files comes from git, which did not answer here ({error})")
    found = [read(name) for name in sorted(set(listing.split("\0"))) if (ROOT / name).is_file()]
    return [module for module in found if module is not None]


def fail_with(violations: list[str]) -> None:
    """One line per violation, and nothing else."""
    if violations:
        pytest.fail("\n".join(violations), pytrace=False)


@pytest.mark.slow
def test_every_python_file_keeps_every_rule(texts: list[Module]) -> None:
    modules = [text for text in texts if text.path.endswith(".py")]
    assert "src/stablerep/store.py" in {module.path for module in modules}, "the package was not found"
    fail_with([violation for module in modules for rule in RULES for violation in rule(module)])


def test_no_file_names_a_machine_or_a_registry(texts: list[Module]) -> None:
    violations = [violation for text in texts for violation in forbidden_text(text)]
    fail_with(violations)


def architecture_page() -> str:
    return (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")


def test_the_architecture_page_names_every_module(texts: list[Module]) -> None:
    names = [text.path.removeprefix("src/stablerep/") for text in texts if text.room is not None]
    modules = [name for name in names if name.endswith(".py") and not name.endswith("__init__.py")]
    page = architecture_page()
    fail_with([f"docs/architecture.md has no line on {name}" for name in modules if f"`{name}`" not in page])


def test_the_architecture_page_names_only_what_exists() -> None:
    present = architecture_page().split("## Where this differs")[0]
    names = re.findall(r"`([a-z_/]+\.py)`", present)
    assert "learning/losses.py" in names, "the page was not understood"
    missing = [
        name for name in names if not (ROOT / name).exists() and not (ROOT / "src/stablerep" / name).exists()
    ]
    fail_with([f"docs/architecture.md names {name}, which is not there" for name in missing])


def pins() -> Iterator[tuple[str, Requirement]]:
    """(place, pin) of every line of requirements.txt; an option or a bare address does not parse."""
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    return ((f"requirements.txt:{number}", Requirement(line)) for number, line in enumerate(lines, start=1))


def test_requirements_are_exact_and_name_no_address() -> None:
    loose = [
        f"{place}: {pin}" for place, pin in pins() if pin.url or [s.operator for s in pin.specifier] != ["=="]
    ]
    fail_with(loose)


def test_requirements_satisfy_pyproject() -> None:
    versions: dict[str, list[str]] = {}
    for _, pin in pins():
        versions.setdefault(canonicalize_name(pin.name), []).extend(s.version for s in pin.specifier)
    extras = PROJECT["optional-dependencies"]
    for need in map(Requirement, (*PROJECT["dependencies"], *extras["dev"], *extras["tools"])):
        pinned = versions.get(canonicalize_name(need.name), [])
        assert pinned, f"{need} of pyproject.toml has no pin; run `make pins`"
        assert all(map(need.specifier.contains, pinned)), f"{need}: pinned at {pinned}; run `make pins`"


# -- the rules themselves ----------------------------------------------------------------------------

LONG_FUNCTION = "def long() -> None:\n" + "    value = 1\n" * MAX_FUNCTION_LINES
BROKEN: tuple[tuple[Callable[[Module], Iterator[str]], str, str, int], ...] = (
    (import_order, "store.py", "import os\nfrom stablerep.captions.sources import import_captions\n", 2),
    (import_order, "store.py", "def f():\n    import stablerep.learning.losses\n", 2),
    (import_order, "run.py", "from stablerep import api\n", 1),
    (import_order, "run.py", "import stablerep\n", 1),
    (import_order, "captions/sources.py", "from ..models import encoder\n", 1),
    (import_order, "captions/__init__.py", "from ..models import encoder\n", 1),
    (
        import_order,
        "evaluation/protocols.py",
        "from stablerep import store\nfrom stablerep.learning import views\n",
        2,
    ),
    (import_order, "audit/bias.py", "from stablerep.evaluation.protocols import evaluate\n", 1),
    (import_order, "helpers.py", "x = 1\n", 1),
    (import_order, "api.py", "from stablerep.helpers import x\n", 1),
    (top_level_imports, "features.py", "import torch\nimport ray\n", 2),
    (
        top_level_imports,
        "features.py",
        "try:\n    from umap.umap_ import UMAP\nexcept ImportError:\n    pass\n",
        2,
    ),
    (top_level_imports, "features.py", "class Server:\n    import gradio.blocks\n", 2),
    (module_length, "store.py", "x = 1\n" * MAX_MODULE_LINES, MAX_MODULE_LINES),
    (function_length, "store.py", LONG_FUNCTION, 1),
    (
        function_length,
        "store.py",
        "class A:\n" + LONG_FUNCTION.replace("def", " def").replace("    v", "     v"),
        2,
    ),
    (argument_count, "store.py", "def f(a, b, c, d, *e, f, g): ...\n", 1),
    (argument_count, "store.py", "class A:\n    def f(self, a, b, c, d, e, f, g): ...\n", 2),
    (argument_count, "store.py", "class A:\n    @staticmethod\n    def f(a, b, c, d, e, f, g): ...\n", 3),
    (docstrings, "store.py", "x = 1\n", 1),
    (docstrings, "store.py", '"""Doc."""\n\n\ndef f(): ...\n', 4),
    (docstrings, "store.py", '"""Doc."""\n\n\nclass A: ...\n', 4),
    (docstrings, "store.py", '"""Doc."""\n\n\nclass A:\n    """Doc."""\n\n    def f(self): ...\n', 7),
    (
        docstrings,
        "store.py",
        '"""Doc."""\n\n\nclass A(ImageTable):\n    """Doc."""\n\n    def new(self): ...\n',
        7,
    ),
    (printing, "store.py", 'def f():\n    print("done")\n', 2),
    (printing, "store.py", 'import sys\nsys.stdout.write("done")\n', 2),
    (forbidden_text, "store.py", "x = 1\n# see /" + "tmp/notes.md\n", 2),
    (forbidden_text, "store.py", 'cache = "/' + 'home/me/.cache"\n', 1),
    (forbidden_text, "store.py", "# https://files.python" + "hosted.org/packages\n", 1),
    (forbidden_text, "store.py", "# https://py" + "pi.org/simple\n", 1),
)
KEPT = '''"""A module that keeps every rule."""

import sys

import lance
import torch
from PIL import Image

from stablerep import config, store
from stablerep.captions.sources import import_captions
from stablerep.learning.losses import multi_positive


def train(a, b, c, d, e, f):
    """Six arguments are allowed."""
    import ray

    def inner(): ...

    return inner


class Contrastive(store.ImageTable):
    """A public class."""

    def forward(self, batch): ...

    def step(self, a, b, c, d, e, f):
        """Self does not count."""

    def origins(self): ...  # documented in ImageTable

    def reload(self): ...  # documented in its base

    def _private(self): ...


class _Hidden:
    def method(self): ...
'''


@pytest.mark.parametrize(("rule", "path", "text", "line"), BROKEN)
def test_a_rule_finds_what_breaks_it(
    rule: Callable[[Module], Iterator[str]], path: str, text: str, line: int
) -> None:
    found = list(rule(Module(f"src/stablerep/{path}", text)))
    assert len(found) == 1
    assert found[0].startswith(f"src/stablerep/{path}:{line}: ")


@pytest.mark.parametrize("rule", [*RULES, forbidden_text], ids=lambda rule: rule.__name__)
def test_a_rule_accepts_what_keeps_it(rule: Callable[[Module], Iterator[str]]) -> None:
    assert list(rule(Module("src/stablerep/learning/contrastive.py", KEPT))) == []


def test_the_surface_may_print() -> None:
    assert list(printing(Module("src/stablerep/cli.py", 'print("done")\n'))) == []


def test_relative_paths_and_other_sites_may_be_named() -> None:
    before = ("docs", "~", "{root}", "https://example.org")
    named = [f"{start}/{folder}/x" for start in before for folder in ("work", "tmp", "home")]
    fine = ", ".join([*named, "Debian package"])
    assert list(forbidden_text(Module("README.md", fine))) == []
