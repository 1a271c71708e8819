"""The rules that test_structure.py applies: each is a function from one parsed file to its violations."""

import ast
import functools
import re
import sys
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]

# Top to bottom: a module may import from its own group and from the groups above it.
GROUPS: tuple[tuple[str, ...], ...] = (
    (
        "errors",
        "storage",
        "config",
        "console",
        "locks",
        "cluster",
        "runtime",
        "cost",
        "run",
        "row_keys",
        "store",
    ),
    ("decoding", "interchange"),
    ("captions",),
    ("models",),
    ("generation",),
    ("features", "probes", "copies", "match", "embedding"),
    ("audit", "learning", "evaluation"),
    ("report",),
    ("workflows", "doctor"),
    ("gallery", "api", "commands", "completion", "cli", "__init__", "__main__"),
)
LEVEL = {room: level for level, group in enumerate(GROUPS) for room in group}
STRANGERS = {"audit", "learning", "evaluation"}

MAX_MODULE_LINES = 400
MAX_FUNCTION_LINES = 60
MAX_ARGUMENTS = 6
MAY_PRINT = {"console", "cli"}
EXCUSED = {"property", "cached_property", "setter", "overload"}

# Distributions whose import name is not their own name.
IMPORT_NAMES = {
    "opencv-python-headless": "cv2",
    "pillow": "PIL",
    "pylance": "lance",
    "scikit-learn": "sklearn",
}

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


@dataclass(frozen=True)
class Module:
    """One parsed Python file of the repository."""

    path: str  # relative to the repository, with forward slashes
    text: str

    @functools.cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.text)

    @functools.cached_property
    def nodes(self) -> list[ast.AST]:
        """All nodes of the tree, which several rules go through."""
        return list(ast.walk(self.tree))

    @property
    def dotted(self) -> str | None:
        """The import name of a module of the package, None for tests, tools and benchmarks."""
        if not self.path.startswith("src/stablerep/"):
            return None
        return self.path.removeprefix("src/").removesuffix(".py").replace("/", ".").removesuffix(".__init__")

    @property
    def room(self) -> str | None:
        return None if self.dotted is None else room_of(self.dotted)

    def at(self, line: int, what: str) -> str:
        return f"{self.path}:{line}: {what}"


@functools.cache
def read(name: str) -> Module | None:
    """A text file of the repository, read and parsed once; None for a binary one."""
    try:
        return Module(name, (ROOT / name).read_text(encoding="utf-8"))
    except UnicodeDecodeError:
        return None


def room_of(dotted: str) -> str:
    """``stablerep.learning.losses`` -> ``learning``; the package itself is its ``__init__``."""
    parts = dotted.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


# -- imports -----------------------------------------------------------------------------------------


def all_imports(module: Module) -> Iterator[tuple[int, str]]:
    """(line, dotted name) of whatever the module imports, at its top or inside a function."""
    for node in module.nodes:
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = absolute_base(module, node)
            if base == "stablerep":  # `from stablerep import config`: the names are modules
                yield from ((node.lineno, f"{base}.{alias.name}") for alias in node.names)
            else:
                yield node.lineno, base


def absolute_base(module: Module, node: ast.ImportFrom) -> str:
    """The module that ``from ... import`` names, with leading dots resolved."""
    if not node.level or module.dotted is None:
        return node.module or ""
    inside = module.dotted.split(".")
    is_package = module.path.endswith("/__init__.py")
    package = inside[: len(inside) - node.level + (1 if is_package else 0)]
    return ".".join([*package, *([node.module] if node.module else [])])


def import_order(module: Module) -> Iterator[str]:
    """Imports go up, and audit, learning and evaluation never meet."""
    room = module.room
    if room is None:
        return
    if room not in LEVEL:
        yield module.at(1, f"{module.dotted} belongs to no room of docs/architecture.md")
        return
    for line, name in all_imports(module):
        if name.split(".")[0] != "stablerep":
            continue
        other = room_of(name)
        if other not in LEVEL:
            yield module.at(line, f"imports {name}, which belongs to no room")
        elif LEVEL[other] > LEVEL[room]:
            yield module.at(line, f"{room} imports {name}: {other} stands below {room}, imports go up only")
        elif other != room and {room, other} <= STRANGERS:
            yield module.at(
                line, f"{room} imports {name}: audit, learning and evaluation never import one another"
            )


def top_level_imports(module: Module) -> Iterator[str]:
    """What loads with a module comes with Python or the core install; extras load where they are used."""
    if module.room is None:
        return
    declared = {import_name(Requirement(need).name) for need in PROJECT["dependencies"]}
    known = declared | set(sys.stdlib_module_names) | {"stablerep"}
    for node in executed_on_load(module.tree):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names = [node.module or ""]
        for name in names:
            if name.split(".")[0] not in known:
                yield module.at(
                    node.lineno, f"imports {name} at the top; it is not a dependency of the core install"
                )


def import_name(distribution: str) -> str:
    return IMPORT_NAMES.get(distribution, distribution.replace("-", "_"))


def executed_on_load(node: ast.AST) -> Iterator[ast.stmt]:
    """All statements that run when a module is loaded: everything outside function bodies."""
    for child in blocks(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if isinstance(child, ast.stmt):
            yield child
        yield from executed_on_load(child)


def blocks(node: ast.AST) -> Iterator[ast.AST]:
    """What a node holds of statements, and of parts of statements that hold some."""
    held = (child for child in ast.iter_child_nodes(node))
    return (child for child in held if isinstance(child, ast.stmt | ast.excepthandler | ast.match_case))


# -- size --------------------------------------------------------------------------------------------


def functions(
    tree: ast.AST, inside_class: bool = False
) -> Iterator[tuple[ast.FunctionDef | ast.AsyncFunctionDef, bool]]:
    """Every function at any depth, and whether it is a method."""
    for child in blocks(tree):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            yield child, inside_class
        yield from functions(child, isinstance(child, ast.ClassDef))


def module_length(module: Module) -> Iterator[str]:
    lines = len(module.text.splitlines())
    if lines >= MAX_MODULE_LINES:
        yield module.at(lines, f"{lines} lines, a module stays under {MAX_MODULE_LINES}")


def function_length(module: Module) -> Iterator[str]:
    for function, _ in functions(module.tree):
        lines = (function.end_lineno or function.lineno) - function.lineno + 1
        if lines > MAX_FUNCTION_LINES:
            yield module.at(
                function.lineno, f"{function.name} has {lines} lines, at most {MAX_FUNCTION_LINES}"
            )


def argument_count(module: Module) -> Iterator[str]:
    for function, is_method in functions(module.tree):
        given = function.args
        count = len(given.posonlyargs) + len(given.args) + len(given.kwonlyargs)
        count += (given.vararg is not None) + (given.kwarg is not None)
        if is_method and "staticmethod" not in {
            ast.unparse(decorator) for decorator in function.decorator_list
        }:
            count -= 1  # self or cls
        if count > MAX_ARGUMENTS:
            what = f"{function.name} takes {count} arguments, at most {MAX_ARGUMENTS}; pass a config"
            yield module.at(function.lineno, what)


# -- words -------------------------------------------------------------------------------------------


def docstrings(module: Module) -> Iterator[str]:
    """Modules, public classes, public functions and public methods say what they are for.

    Excused: properties (attributes by another name), ``forward`` (its class says the shapes), overloads, and
    overrides of a method that a base class in the package documents. What stands in a private class or in a
    function is not public.
    """
    if module.path.startswith("tests/") or not module.text.strip():  # an empty __init__.py
        return
    if ast.get_docstring(module.tree) is None:
        yield module.at(1, "the module has no docstring")
    yield from undocumented(module, module.tree)


def undocumented(module: Module, scope: ast.Module | ast.ClassDef) -> Iterator[str]:
    """Violations in a scope and in the public classes within."""
    inherited = documented_in_bases(scope) if isinstance(scope, ast.ClassDef) else set()
    for child in scope.body:
        if not isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if child.name.startswith("_") or child.name == "forward" or child.name in inherited:
            continue
        decorators = {ast.unparse(decorator).split(".")[-1] for decorator in child.decorator_list}
        if ast.get_docstring(child) is None and not decorators & EXCUSED:
            yield module.at(child.lineno, f"{child.name} has no docstring")
        if isinstance(child, ast.ClassDef):
            yield from undocumented(module, child)


def documented_in_bases(scope: ast.ClassDef) -> set[str]:
    """Names of the methods that the bases of a class document, as far as those are classes of the package."""
    documented: set[str] = set()
    ahead, seen = [scope], {scope.name}
    while ahead:
        for base in {ast.unparse(base).split("[")[0].split(".")[-1] for base in ahead.pop().bases} - seen:
            seen.add(base)
            for cls in package_classes().get(base, ()):
                ahead.append(cls)
                methods = [child for child in cls.body if isinstance(child, ast.FunctionDef)]
                documented |= {method.name for method in methods if ast.get_docstring(method) is not None}
    return documented


@functools.cache
def package_classes() -> dict[str, list[ast.ClassDef]]:
    """Every class of the package by its bare name."""
    classes: dict[str, list[ast.ClassDef]] = {}
    for path in sorted((ROOT / "src").rglob("*.py")):
        module = read(path.relative_to(ROOT).as_posix())
        for node in module.nodes if module else ():
            if isinstance(node, ast.ClassDef):
                classes.setdefault(node.name, []).append(node)
    return classes


def printing(module: Module) -> Iterator[str]:
    """The package talks through ``console.Console``."""
    if module.room is None or module.room in MAY_PRINT:
        return
    for node in module.nodes:
        if not isinstance(node, ast.Call) or last_name(node.func) not in {"print", "write"}:
            continue  # without writing out every call
        name = ast.unparse(node.func)
        if name in {"print", "sys.stdout.write", "sys.stderr.write"}:
            yield module.at(node.lineno, f"{name}: only console.py and cli.py write to the terminal")


def last_name(function: ast.expr) -> str:
    """The last part of the dotted name of what is called; empty where it has no name."""
    return str(getattr(function, "attr", getattr(function, "id", "")))


# Written with brackets, so that this file does not contain what it looks for.
FORBIDDEN = {
    re.compile(r"(?<![\w.~)}])/(?:[w]ork|[t]mp|[r]oot|[f]arm|[h]ome)/\w"): "an absolute path of one machine",
    re.compile(r"\b(?:[p]ypi|[n]pmjs|[p]ythonhosted|[d]ebian)\.(?:org|com|net|io)\b"): "a registry host",
}


def forbidden_text(module: Module) -> Iterator[str]:
    """No machine's paths and no registry hosts."""
    for pattern, what in FORBIDDEN.items():
        for match in pattern.finditer(module.text):
            yield module.at(module.text.count("\n", 0, match.start()) + 1, f"{what}: {match[0]}")


RULES: tuple[Callable[[Module], Iterator[str]], ...] = (
    import_order,
    top_level_imports,
    module_length,
    function_length,
    argument_count,
    docstrings,
    printing,
)
