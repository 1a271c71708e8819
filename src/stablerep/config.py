"""Configuration: frozen keyword-only dataclasses that live beside their owners, overlaid by TOML recipes.

A recipe is a TOML file with one table per command (``[generate]``, ``[train.stablerep]``). It may set any subset of
the fields of that command's dataclass; every wrong key and every wrong type is reported in one message. With
``extends = "NAME"`` before the tables it says only how it differs from another recipe.
"""

import dataclasses
import os
import tomllib
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

import tomli_w

from stablerep.errors import UserError
from stablerep.storage import location

T = TypeVar("T")

FREE: Mapping[str, Any] = types.MappingProxyType({"free": True})
"""Metadata of a field that says where and how often, not what: what was begun goes on with another value of it."""


def recipe_names() -> list[str]:
    """Names of the recipes that ship with the package."""
    folder = resources.files("stablerep") / "recipes"
    return sorted(
        entry.name.removesuffix(".toml") for entry in folder.iterdir() if entry.name.endswith(".toml")
    )


def read_recipe(name_or_path: str) -> dict[str, Any]:
    """Read a recipe by its shipped name or by its path, laid over the one that it extends."""
    return _read_extended(name_or_path, ())


def _read_extended(name_or_path: str, above: tuple[str, ...]) -> dict[str, Any]:
    chain = (*above, name_or_path)
    if name_or_path in above:
        raise UserError(f"recipe {name_or_path} extends itself ({' -> '.join(chain)}); give another base")
    recipe = _read_tables(name_or_path)
    base = recipe.pop("extends", None)
    if base is None:
        return recipe
    if not isinstance(base, str):
        raise UserError(f"recipe {name_or_path}: extends must be the name or path of a recipe, got {base!r}")
    if base.endswith(".toml"):  # a path is relative to the recipe that names it
        base = os.path.normpath(Path(name_or_path).parent / base)
    return _merge(_read_extended(base, chain), recipe)


def _read_tables(name_or_path: str) -> dict[str, Any]:
    path = Path(name_or_path)
    if path.suffix == ".toml":
        try:
            text = path.read_text(encoding="utf-8")
        except OSError as error:
            raise UserError(f"recipe {path}: {error.strerror}; give the path of a TOML file") from error
        except UnicodeDecodeError as error:
            raise UserError(f"recipe {path}: not UTF-8 text (byte {error.start})") from error
    elif name_or_path in recipe_names():
        text = (resources.files("stablerep") / "recipes" / f"{name_or_path}.toml").read_text(encoding="utf-8")
    else:
        raise UserError(
            f"unknown recipe {name_or_path!r}; shipped: {', '.join(recipe_names())}; or give the path of a .toml file"
        )
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"recipe {name_or_path}: {error}") from error


def recipe_table(recipe: Mapping[str, Any], command: Sequence[str], origin: str) -> dict[str, Any]:
    """The table of one command within a recipe, empty where the recipe does not mention the command."""
    table: Mapping[str, Any] = recipe
    for word in command:
        table = table.get(word, {})
        if not isinstance(table, Mapping):
            raise UserError(
                f"recipe {origin}: [{'.'.join(command)}] must be a table, got {type(table).__name__}"
            )
    return dict(table)


def build(cls: type[T], *overlays: Mapping[str, Any], origin: str) -> T:
    """Build the dataclass ``cls`` from its defaults and the overlays, later ones winning.

    Raises ``UserError`` that lists every unknown key, wrong type and missing field by dotted name, after ``origin``.
    """
    merged: dict[str, Any] = {}
    for overlay in overlays:
        merged = _merge(merged, overlay)
    problems: list[str] = []
    result = _build(cls, merged, "", problems)
    if problems:
        raise UserError(f"{origin}: " + "; ".join(problems))
    return typing.cast(T, result)


def build_partial(cls: type[T], overlay: Mapping[str, Any], *, missing: Any, origin: str) -> T:
    """An unchecked instance of ``cls`` whose required fields hold ``missing`` where the overlay does not give them.

    It serves as the defaults of a command-line parser, which builds and checks the final value.
    """
    problems: list[str] = []
    result = _build(cls, overlay, "", problems, missing)
    if problems:
        raise UserError(f"{origin}: " + "; ".join(problems))
    return typing.cast(T, result)


def to_dict(config: Any) -> dict[str, Any]:
    """A dataclass as nested plain values; fields that are None are left out, as TOML has no null.

    Raises ``TypeError`` where such a field has another default, to which it would silently return.
    """
    values = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if value is not None:
            values[field.name] = _plain(value)
        elif field.default is not None:
            place = f"{type(config).__name__}.{field.name}"
            raise TypeError(f"{place} is None and its default is not: TOML cannot say so")
    return values


def to_toml(config: Any) -> str:
    """A dataclass as TOML text that ``build`` reads back to an equal value."""
    return tomli_w.dumps(to_dict(config))


def places(cls: type[Any], name: str, above: str = "") -> Iterator[str]:
    """Dotted names of the fields called ``name``, in a dataclass and in those within it."""
    for field, hint in typing.get_type_hints(cls).items():
        if field == name:
            yield above + field
        for option in _options(hint):
            if dataclasses.is_dataclass(option) and isinstance(option, type):
                yield from places(option, name, f"{above}{field}.")


def differing_fields(left: Mapping[str, Any], right: Mapping[str, Any]) -> list[str]:
    """One line per dotted key whose values differ: ``steps: 20 there, 50 asked``."""
    flat_left, flat_right = _flatten(left), _flatten(right)
    return [
        f"{key}: {flat_left.get(key)!r} there, {flat_right.get(key)!r} asked"
        for key in sorted(flat_left.keys() | flat_right.keys())
        if flat_left.get(key) != flat_right.get(key)
    ]


def without_free(config: Any, values: Mapping[str, Any]) -> dict[str, Any]:
    """Plain values of a dataclass, as ``to_dict`` gave them once, without its fields that are ``FREE``."""
    kept = dict(values)
    for field in dataclasses.fields(config):
        inner = getattr(config, field.name)
        if field.metadata.get("free"):
            kept.pop(field.name, None)
        elif dataclasses.is_dataclass(inner) and isinstance(kept.get(field.name), Mapping):
            kept[field.name] = without_free(inner, kept[field.name])
    return kept


def _merge(base: Mapping[str, Any], overlay: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in overlay.items():
        inner = merged.get(key)
        merged[key] = (
            _merge(inner, value) if isinstance(inner, dict) and isinstance(value, Mapping) else value
        )
    return merged


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat.update(
            _flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {prefix + key: value}
        )
    return flat


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return to_dict(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return location(value) if isinstance(value, Path) else value


_REQUIRED = object()


def _build(
    cls: type[Any], values: Mapping[str, Any], place: str, problems: list[str], missing: Any = _REQUIRED
) -> Any:
    hints = typing.get_type_hints(cls)
    fields = {field.name: field for field in dataclasses.fields(cls) if field.init}
    unknown = [key for key in values if key not in fields]
    if unknown:
        problems.append(
            f"unknown {'key' if len(unknown) == 1 else 'keys'} "
            + ", ".join(repr(place + key) for key in unknown)
            + f" (known: {', '.join(place + name for name in fields)})"
        )
    arguments = {}
    for name, field in fields.items():
        default = _default(field)
        if name in values:
            value = values[name]
            if isinstance(value, Mapping) and dataclasses.is_dataclass(default):
                value = _merge(to_dict(default), value)
            arguments[name] = _convert(value, hints[name], place + name, problems, missing)
        elif default is not dataclasses.MISSING:
            arguments[name] = default
        elif missing is not _REQUIRED:
            arguments[name] = _missing_value(hints[name], missing)
        else:
            problems.append(f"missing {place + name!r}")
    if problems:
        return None
    if missing is not _REQUIRED:
        return _unchecked(cls, arguments)
    try:
        return cls(**arguments)
    except ValueError as error:
        problems.append(f"{place.rstrip('.') or cls.__name__}: {error}")
        return None


def _default(field: dataclasses.Field[Any]) -> Any:
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


def _missing_value(hint: Any, missing: Any) -> Any:
    """A required nested dataclass still has defaults of its own; only its required leaves are missing."""
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return _build(hint, {}, "", [], missing)
    return missing


def _unchecked(cls: type[Any], arguments: Mapping[str, Any]) -> Any:
    instance = object.__new__(cls)
    for name, value in arguments.items():
        object.__setattr__(instance, name, value)
    return instance


def _convert(value: Any, hint: Any, place: str, problems: list[str], missing: Any) -> Any:
    for option in _options(hint):
        if dataclasses.is_dataclass(option) and isinstance(option, type) and isinstance(value, Mapping):
            return _build(option, value, f"{place}.", problems, missing)
    converted = _match(value, hint)
    if converted is _NO_MATCH:
        problems.append(f"{place!r} must be {_describe(hint)}, got {value!r}")
        return None
    return converted


def _options(hint: Any) -> tuple[Any, ...]:
    """The members of a union; of any other type, itself."""
    return get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)


_NO_MATCH = object()


def _match(value: Any, hint: Any) -> Any:
    kind = get_origin(hint)
    if kind in (Union, types.UnionType):
        matches = (_match(value, option) for option in _options(hint))
        return next((match for match in matches if match is not _NO_MATCH), _NO_MATCH)
    if kind is Literal:
        allowed = [(type(option), option) for option in get_args(hint)]  # True == 1, but is not 1
        return value if (type(value), value) in allowed else _NO_MATCH
    if kind in (tuple, list):
        return _match_sequence(value, hint, kind)
    if kind is dict:
        return _match_mapping(value, hint)
    if hint is Path:
        return Path(value) if isinstance(value, str | Path) else _NO_MATCH
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if hint in (type(None), None):
        return value if value is None else _NO_MATCH
    if hint is Any or (
        isinstance(hint, type) and isinstance(value, hint) and (hint is bool or not isinstance(value, bool))
    ):
        return value
    return _NO_MATCH


def _match_sequence(value: Any, hint: Any, kind: type[Any]) -> Any:
    if not isinstance(value, list | tuple):
        return _NO_MATCH
    options = get_args(hint)
    if kind is tuple and not (len(options) == 2 and options[1] is Ellipsis):
        if len(options) != len(value):
            return _NO_MATCH
        items = [_match(item, option) for item, option in zip(value, options, strict=True)]
    else:
        items = [_match(item, options[0]) for item in value]
    return _NO_MATCH if any(item is _NO_MATCH for item in items) else kind(items)


def _match_mapping(value: Any, hint: Any) -> Any:
    if not isinstance(value, Mapping):
        return _NO_MATCH
    items = {name: _match(item, get_args(hint)[1]) for name, item in value.items()}
    return _NO_MATCH if any(item is _NO_MATCH for item in items.values()) else items


def _describe(hint: Any) -> str:
    if get_origin(hint) is Literal:
        return "one of " + ", ".join(repr(option) for option in get_args(hint))
    return str(getattr(hint, "__name__", hint)) if get_origin(hint) is None else str(hint)
