"""The recipe that a workflow reads: what it says of one command, with the workflow's own settings over it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self, TypeVar

from stablerep import config as config_module

T = TypeVar("T")


@dataclass(frozen=True)
class Recipe:
    """A recipe as it was when the workflow began."""

    name: str
    tables: Mapping[str, Any]
    reader: str
    """The workflow that reads it, named where a setting is wrong."""

    @classmethod
    def read(cls, name: str, reader: str) -> Self:
        """A recipe by name or path; raises ``UserError`` as ``config.read_recipe`` does."""
        return cls(name, config_module.read_recipe(name), reader)

    def configure(
        self,
        config_class: type[T],
        command: tuple[str, ...],
        given: Mapping[str, Any],
        *,
        silent: Mapping[str, Any] | None = None,
    ) -> T:
        """The configuration of a command: ``silent`` where the recipe says nothing, ``given`` whatever it says.

        A recipe may count epochs where the workflow gives steps, which are then what counts. Raises ``UserError`` as
        ``config.build`` does.
        """
        table = config_module.recipe_table(self.tables, command, self.name)
        if "num_steps" in given:
            table.pop("num_epochs", None)
        return config_module.build(config_class, silent or {}, table, given, origin=self.reader)
