"""How the scripts of experiments/ end where the user can mend what is wrong: in one sentence, as `stablerep` does."""

import contextlib
from collections.abc import Iterator

from stablerep.console import Console
from stablerep.errors import UserError


@contextlib.contextmanager
def in_one_sentence() -> Iterator[None]:
    """Say a ``UserError`` without its traceback and end with code 2; all else keeps its own."""
    try:
        yield
    except UserError as error:
        Console().complain(str(error))
        raise SystemExit(2) from None
