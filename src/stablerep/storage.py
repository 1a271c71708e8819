"""Where tables lie, this machine's disks or an object store, and what can go wrong there."""

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

from stablerep.errors import UserError

# Two slashes, or the one that pathlib leaves of them; a drive letter is no scheme.
_REMOTE = re.compile(r"(?P<scheme>[a-z][a-z0-9+.-]+):/{1,2}(?P<rest>[^/].*)")
# What Lance says of a filter that is well-formed and fails on a row; the class of the error is that of a damaged file.
_COMPUTING = "applying filter expression"
_SECRETS = (
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AZURE_STORAGE_ACCOUNT_KEY",
    "GOOGLE_SERVICE_ACCOUNT_KEY",
)


def location(path: str | Path) -> str:
    """Where a table lies, as its reader wants it: pathlib makes one slash of the two in ``s3://bucket/table``."""
    remote = _REMOTE.fullmatch(str(path))
    return f"{remote['scheme']}://{remote['rest']}" if remote else str(path)


def is_remote(path: str | Path) -> bool:
    """Whether a path leads to an object store (``s3://...``) and not into the file system."""
    return _REMOTE.fullmatch(str(path)) is not None


def is_table(path: Path) -> bool:
    """Whether a path leads to a table: one on a disk, or anything in an object store, where nothing else lies."""
    return is_remote(path) or (path / "_versions").is_dir()


def file_beside(table: Path, name: str, option: str) -> Path:
    """A file about a table, in the folder that holds it.

    Raises ``UserError`` for a table in an object store, which has no such folder on this machine.
    """
    if is_remote(table):
        raise UserError(
            f"{location(table)} lies in an object store, and {name} is a file of this machine: say where with {option}"
        )
    return table.parent / name


def refuse_remote(path: Path) -> None:
    """Raise where an object store was named for something that is no table."""
    if is_remote(path):
        raise UserError(
            f"{location(path)}: only tables lie in object stores; give a folder of this machine here"
        )


def refuse_credentials(path: str) -> None:
    """A path is written into logs, run folders and reports, where a password must never be."""
    scheme, _, rest = path.partition("://")
    if is_remote(path) and "@" in rest.split("/", 1)[0]:
        raise UserError(
            f"{scheme}://{rest.partition('@')[2]}: credentials do not belong into a path; give them as environment "
            "variables or in the configuration file of your object store's own tools"
        )


def refuse_files(path: str) -> None:
    """Raise ``NotADirectoryError`` for a path to a file or below one, where Lance would look again for two seconds."""
    places = () if is_remote(path) else (Path(path), *Path(path).parents)
    file = next((place for place in places if place.is_file()), None)
    if file is not None:
        raise NotADirectoryError(f"{file} is a file")


@contextlib.contextmanager
def writing(path: str) -> Iterator[None]:
    """What a full disk or an object store raises in the middle of a commit, as a mistake that can be mended."""
    from lance.commit import CommitConflictError  # loading Lance forbids to fork

    try:
        yield
    except CommitConflictError:
        raise
    except OSError as error:  # Lance's have no errno
        raise UserError(
            f"{path} could not be written ({first_line(error)}); every row committed before is there: mend the cause, "
            "then give the same command again"
        ) from error


@contextlib.contextmanager
def reading(path: str) -> Iterator[None]:
    """What a damaged file or an object store raises while rows are read, as a mistake that names the table.

    A filter that cannot be understood is none of these: its plain ``ValueError`` passes, which ``filtering`` names.
    """
    from pyarrow import ArrowException  # the command line's help reads paths, and should not pay for this

    try:
        yield
    except BaseException as error:
        if not isinstance(error, OSError | ArrowException) and not is_panic(error):
            raise
        raise UserError(
            f"{path} could not be read ({first_line(error)}); `stablerep doctor` says what is left of it"
        ) from error


@contextlib.contextmanager
def filtering(path: str, where: str | None) -> Iterator[None]:
    """``reading`` with a filter: one that cannot be understood, or fails on a row, ends in ``UserError`` as well."""
    from pyarrow import ArrowException

    with reading(path):
        try:
            yield
        except ValueError as error:
            is_damage = isinstance(error, ArrowException) and _COMPUTING not in str(error)
            if where is None or is_damage:
                raise
            raise UserError(
                f"{path}: the filter {where!r} is not valid ({first_line(error)}); write texts in single quotes and "
                "columns without, as in \"split = 'train'\""
            ) from error


def is_panic(error: BaseException) -> bool:
    """Whether Lance gave up in the middle, as it does where a damaged file names an impossible length."""
    return type(error).__name__ == "PanicException"  # which is no Exception, and not to be imported


def first_line(error: BaseException) -> str:
    """What a library complains of, in one line, without its sources' positions and without secrets."""
    text = (str(error) or type(error).__name__).split(", /")[0].splitlines()[0]
    for name in _SECRETS:
        if secret := os.environ.get(name):
            text = text.replace(secret, "***")
    return text
