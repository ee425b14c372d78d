"""What `-f` means: files, folders and standard input, read and checked as a whole before anything is done with them.

Reads only; writes nothing.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import click

from agent.errors import UserError, ValidationError

if TYPE_CHECKING:
    from agent.api.document import Document

_SUFFIXES = (".yaml", ".yml", ".json")


def files_option_else(otherwise: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Return the option -f; `otherwise` says what is done without it."""
    return click.option(
        "-f",
        "--file",
        "files",
        multiple=True,
        metavar="FILE|DIR|-",
        help="File, folder (its *.yaml, *.yml and *.json, sorted) or - for standard input; may be given several times. "
        f"Without it, {otherwise}.",
    )


files_option = files_option_else("standard input is read")


class Loaded(NamedTuple):
    """Documents of which none is invalid."""

    documents: list[Document]
    unenforceable: list[str]
    """A line for each field that is correct, but cannot be enforced here."""


def read_files(files: Sequence[str], namespace: str) -> tuple[list[Document], list[str]]:
    """Return the documents of the files, unchecked, and a line for each problem with what is none."""
    from agent.api.document import merge_documents

    documents, problems = _read_each(files, namespace)
    documents, conflicts = merge_documents(documents)
    return documents, problems + conflicts


def _read_each(files: Sequence[str], namespace: str) -> tuple[list[Document], list[str]]:
    from agent.api.document import read_documents

    documents: list[Document] = []
    problems: list[str] = []
    for source, data in _contents(files):
        try:
            text = data.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            line = data.count(b"\n", 0, error.start) + 1
            problems.append(f"{source}:{line}: not UTF-8 text (byte {error.start}); save the file as UTF-8")
            continue
        found, faults = read_documents(text, source, namespace)
        documents += found
        problems += faults
    return documents, problems


def load_each(files: Sequence[str], namespace: str) -> tuple[Loaded, list[str]]:
    """Return what load_checked does, where files may be alternatives: an object in two of them is a line beside it."""
    from agent.api.document import merge_documents

    documents, problems = _read_each(files, namespace)
    return _checked(documents, problems, files), merge_documents(documents)[1]


def load_checked(files: Sequence[str], namespace: str, *, check: bool = True) -> Loaded:
    """Return all documents of the files and what of them cannot be enforced.

    `check=False` leaves out the validation of the specs: an object is deleted by its name alone. Raises ValidationError
    with every fault of every file, UserError if they hold nothing.
    """
    documents, problems = read_files(files, namespace)
    return _checked(documents, problems, files, check=check)


def _checked(documents: list[Document], problems: list[str], files: Sequence[str], *, check: bool = True) -> Loaded:
    unenforceable: list[str] = []
    for document in documents if check else ():
        _sort_problems(document, problems, unenforceable)
    if problems:
        raise ValidationError(problems)
    if not documents:
        raise UserError(f"{', '.join(files) or 'standard input'}: no objects in it")
    return Loaded(documents, unenforceable)


def _sort_problems(document: Document, invalid: list[str], unenforceable: list[str]) -> None:
    from agent.api.problem import Verdict
    from agent.api.validate import describe, find_problems

    for problem in find_problems(document):
        (invalid if problem.verdict is Verdict.INVALID else unenforceable).append(describe(document, problem))


def _contents(files: Sequence[str]) -> Iterator[tuple[str, bytes]]:
    if not files and sys.stdin.isatty():
        click.echo("Reading from standard input (end with Ctrl-D, or give -f FILE) …", err=True)
    for name in files or ("-",):
        if name == "-":
            yield "standard input", sys.stdin.buffer.read()
        else:
            for path in _files_of(Path(name)):
                yield str(path), _read(path)


def _files_of(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    try:
        found = sorted(entry for entry in path.iterdir() if entry.suffix in _SUFFIXES and not entry.is_dir())
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from error
    if not found:
        raise UserError(f"{path}: no *.yaml, *.yml or *.json in this folder")
    return found


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{os.fspath(path)}: cannot be read: {error.strerror or error}") from error
