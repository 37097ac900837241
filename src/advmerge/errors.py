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


def absent(asked: str) -> StudyError:
    """What is said, before a run and in its jobs, where the device that the study asks for is not there."""
    return StudyError(f"hardware.device: {asked}, but this machine has no such device; 'auto' takes what there is")
