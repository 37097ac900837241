"""Published archives: downloaded once a machine, checked, unpacked, and used by every study.

All lie under one folder, ``$ADVMERGE_DATA`` (else ``~/.cache/advmerge/data``), in torchvision's layout, so that a
folder which torchvision filled serves too.
"""

from __future__ import annotations

import fcntl
import gzip
import hashlib
import http.client
import os
import shutil
import tarfile
import time
import urllib.error
import urllib.parse
import urllib.request
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from advmerge.errors import StudyError
from advmerge.script import progress

ATTEMPTS, PAUSE = 5, 3.0  # of a download that breaks off, and seconds between them
CHUNK = 1 << 20


class Archive(NamedTuple):
    """A file that is published.

    Attributes:
        url: its address.
        md5: its MD5 as its publisher or torchvision gives it.
        megabytes: how large it is, about, for whoever plans; 0 where nobody says.
        name: its name here.
    """

    url: str
    md5: str
    megabytes: int = 0
    name: str = ""

    @property
    def file(self) -> str:
        """Its name here: the address's last part unless it was given."""
        return self.name or PurePosixPath(urllib.parse.urlparse(self.url).path).name


def root() -> Path:
    """The folder of all downloads."""
    return Path(os.environ.get("ADVMERGE_DATA") or Path.home() / ".cache/advmerge/data").expanduser().absolute()


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """One process at a time; the kernel frees a killed one's lock."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest()


def _download(archive: Archive, path: Path) -> None:
    """Fetch into ``path``; what an earlier attempt left beside it is gone on from.

    Raises:
        OSError: the source cannot be reached, or broke off every time, or what came has another checksum.
    """
    part = path.with_name(f"{path.name}.part")
    for attempt in range(ATTEMPTS):
        have = part.stat().st_size if part.exists() else 0
        request = urllib.request.Request(archive.url, headers={"User-Agent": "advmerge", "Range": f"bytes={have}-"})
        try:
            with urllib.request.urlopen(request, timeout=60) as answer, part.open("ab") as file:
                if answer.status != 206:  # it sends the whole file
                    file.truncate(0)
                    file.seek(0)
                expected = answer.headers.get("Content-Length")
                start = file.tell()
                for chunk in progress(f"{archive.file}, MiB")(iter(partial(answer.read, CHUNK), b"")):
                    file.write(chunk)
                got = file.tell() - start
            if expected is not None and got < int(expected):
                raise ConnectionError(f"it broke off after {got} of {expected} bytes")
            break
        except urllib.error.HTTPError as error:
            if error.code == 416 and have:  # nothing is missing: it broke off after the last byte
                break
            raise
        except urllib.error.URLError:  # nobody answers
            raise
        except (OSError, http.client.HTTPException) as error:
            if attempt == ATTEMPTS - 1:
                raise ConnectionError(str(error)) from error
            time.sleep(PAUSE)
    if (found := _md5(part)) != archive.md5:
        part.unlink()
        raise ConnectionError(f"what came has the MD5 {found}, and {archive.md5} is expected")
    part.replace(path)


def fetch(archive: Archive, folder: Path) -> Path:
    """The archive's file in ``folder``, downloaded unless it lies there, and of the right checksum.

    Raises:
        OSError: the source cannot be reached, or sends something else.
        StudyError: a file of another checksum lies there.
    """
    path = folder / archive.file
    if not path.exists():
        _download(archive, path)
    elif (found := _md5(path)) != archive.md5:
        raise StudyError(f"{path}: has the MD5 {found}, and {archive.md5} is expected; delete it to download it again")
    return path


def unpack(path: Path, folder: Path) -> None:
    """Unpack a tar, zip or gz file into ``folder``; another file is left as it is.

    Raises:
        StudyError: it is damaged, or a member would lie outside of ``folder`` or is no plain file or folder.
    """
    try:
        if tarfile.is_tarfile(path):
            with tarfile.open(path) as tar:
                tar.extractall(folder, filter="data")  # refuses absolute paths, '..', devices, links out of the folder
        elif zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as zipped:
                for name in zipped.namelist():
                    parts = PurePosixPath(name.replace("\\", "/"))
                    if parts.is_absolute() or ".." in parts.parts:
                        raise StudyError(f"{path}: holds '{name}', which would lie outside of {folder}")
                zipped.extractall(folder)  # a link in a zip comes out as a file
        elif path.suffix == ".gz":
            with gzip.open(path) as source, (folder / path.stem).open("wb") as target:
                shutil.copyfileobj(source, target, CHUNK)
    except (tarfile.TarError, zipfile.BadZipFile, EOFError, gzip.BadGzipFile) as error:
        raise StudyError(f"{path}: cannot be unpacked: {error}") from error


def provide(folder: Path, needs: Sequence[str], archives: Sequence[Archive], page: str) -> Path:
    """Make sure that ``folder`` holds what a dataset needs, and return the folder.

    Args:
        folder: where the dataset lies.
        needs: files or folders in it; if all are there nothing is downloaded.
        archives: what they are unpacked from.
        page: where a person finds the dataset when its source has moved.

    Raises:
        StudyError: a source is dead (the message says what to put where), or a file has another checksum.
    """
    if all((folder / need).exists() for need in needs) and not os.access(folder, os.W_OK):
        return folder  # somebody else's, ready to be used
    lock, unfinished, ready = (folder / f".{archives[0].file}.{state}" for state in ("lock", "unpacking", "ready"))
    with _alone(lock):
        complete = all((folder / need).exists() for need in needs) and not unfinished.exists()
        if complete and ready.exists():
            return folder
        for archive in archives:
            if complete and not (folder / archive.file).exists():
                continue
            try:
                path = fetch(archive, folder)
            except OSError as error:
                lacking = [other for other in archives if not (folder / other.file).exists()]
                named = ", ".join(f"{other.file} (MD5 {other.md5})" for other in lacking)
                raise StudyError(
                    f"{archive.url}: cannot be downloaded ({error}); get the dataset by hand from {page} and put {named}, "
                    f"or what is unpacked from it ({', '.join(needs)}), into {folder}"
                ) from None
            if not complete:
                unfinished.touch()
                unpack(path, folder)
        if missing := [need for need in needs if not (folder / need).exists()]:
            raise StudyError(f"{folder}: the archives have been unpacked, and {', '.join(missing)} is not there")
        unfinished.unlink(missing_ok=True)
        ready.touch()
    return folder
