"""The one exception a user is meant to read."""

from __future__ import annotations

from collections.abc import Iterable


class StudyError(Exception):
    """What is wrong with the study, a file or an option, in one sentence that names it.

    Scripts and the Snakefile print the sentence alone and exit non-zero; a traceback is for bugs.
    """


def unknown(what: str, name: str, choices: Iterable[str], where: str = "") -> StudyError:
    """The error for a name that is not among ``choices``; ``where`` is the key or file it stands in."""
    place = f"{where}: " if where else ""
    return StudyError(f"{place}unknown {what} '{name}'; choose one of: {', '.join(sorted(choices))}")
