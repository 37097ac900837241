"""Published datasets, each from a tiny archive in its true layout, through the real download and unpacking code."""

from __future__ import annotations

import hashlib
import http.server
import importlib
import inspect
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torchvision import datasets

from advmerge.data import SOURCES, archives, archives_of, cifar, make, source
from advmerge.data.archives import Archive, fetch, provide, unpack
from advmerge.errors import StudyError
from published_sets import DIGITS, SETS, colour, md5s, tar, zipped

SIZES = {"train": 4, "val": 2, "adapt": 2, "test": 2, "attack": 2}
SHAPE = (3, 16, 16)


# ── archives ────────────────────────────────────────────────────────────────────────────────────────────────


class Server(http.server.ThreadingHTTPServer):
    """Serves one file; ``lengths`` says after how many bytes each answer breaks off, ``ranges`` what was asked."""

    def __init__(self, content: bytes, lengths: list[int], with_ranges: bool = True) -> None:
        self.content, self.lengths, self.with_ranges = content, lengths, with_ranges
        self.ranges: list[str | None] = []
        super().__init__(("127.0.0.1", 0), Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/folder/set.bin?download=1"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        asked = self.headers["Range"]
        self.server.ranges.append(asked)
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and self.server.with_ranges else 0
        if start >= len(self.server.content):
            self.send_error(416)
            return
        body = self.server.content[start:]
        self.send_response(206 if asked and self.server.with_ranges else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: self.server.lengths.pop(0) if self.server.lengths else None])

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Server]]:
    monkeypatch.setattr(archives, "PAUSE", 0)
    running: list[Server] = []

    def start(*arguments: Any, **options: Any) -> Server:
        running.append(Server(*arguments, **options))
        threading.Thread(target=running[-1].serve_forever, daemon=True).start()
        return running[-1]

    yield start
    for server in running:
        server.shutdown()
        server.server_close()


CONTENT = np.random.default_rng(0).integers(0, 256, 5000, dtype=np.uint8).tobytes()
MD5 = hashlib.md5(CONTENT).hexdigest()


def test_a_download_goes_on_where_it_broke_off(tmp_path: Path, serve: Callable[..., Server]) -> None:
    server = serve(CONTENT, [1200, 800])
    path = fetch(Archive(server.url, MD5), tmp_path)
    assert (path.name, path.read_bytes()) == ("set.bin", CONTENT)
    assert server.ranges == ["bytes=0-", "bytes=1200-", "bytes=2000-"]
    assert [file.name for file in tmp_path.iterdir()] == ["set.bin"]
    fetch(Archive(server.url, MD5), tmp_path)
    assert len(server.ranges) == 3, "what lies there is not asked for again"


def test_a_part_of_a_killed_process_is_gone_on_from(tmp_path: Path, serve: Callable[..., Server]) -> None:
    server = serve(CONTENT, [])
    (tmp_path / "set.bin.part").write_bytes(CONTENT[:3000])
    assert fetch(Archive(server.url, MD5), tmp_path).read_bytes() == CONTENT
    assert server.ranges == ["bytes=3000-"]


def test_a_whole_part_is_taken_though_nothing_is_left_to_send(tmp_path: Path, serve: Callable[..., Server]) -> None:
    (tmp_path / "set.bin.part").write_bytes(CONTENT)
    assert fetch(Archive(serve(CONTENT, []).url, MD5), tmp_path).read_bytes() == CONTENT


def test_a_server_without_ranges_sends_all_again(tmp_path: Path, serve: Callable[..., Server]) -> None:
    server = serve(CONTENT, [1200], with_ranges=False)
    assert fetch(Archive(server.url, MD5), tmp_path).read_bytes() == CONTENT


def test_another_content_is_refused_and_not_kept(tmp_path: Path, serve: Callable[..., Server]) -> None:
    server = serve(CONTENT[:-1] + b"x", [])
    with pytest.raises(
        StudyError, match=f"has the MD5 .*, and {MD5} is expected.; get the dataset by hand from the page"
    ):
        provide(tmp_path, ["images"], [Archive(server.url, MD5)], "the page")
    assert [file.name for file in tmp_path.iterdir()] == [".set.bin.lock"]


def test_an_archive_on_disk_is_checked(tmp_path: Path) -> None:
    (tmp_path / "set.bin").write_bytes(CONTENT[1:])
    with pytest.raises(StudyError, match=r"set.bin: has the MD5 .* is expected; delete it to download it again"):
        provide(tmp_path, ["set.bin"], [Archive("http://127.0.0.1:9/set.bin", MD5)], "the page")


def test_all_that_is_missing_is_named_at_once(tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(zipped({"a.txt": b"a"}))
    archives = [
        Archive(f"http://127.0.0.1:9/{name}.zip", md5s({"": (tmp_path / "a.zip").read_bytes()})[""]) for name in "abc"
    ]
    with pytest.raises(
        StudyError, match=r"put b.zip \(MD5 \w+\), c.zip \(MD5 \w+\), or what is unpacked from it \(x, y\)"
    ):
        provide(tmp_path, ["x", "y"], archives, "the page")


def test_a_dead_source_gives_the_recipe(tmp_path: Path, serve: Callable[..., Server]) -> None:
    gone = serve(b"", []).url  # it answers 416: an HTTP error
    for url in (gone, "http://127.0.0.1:9/set.bin"):
        with pytest.raises(StudyError) as caught:
            provide(tmp_path / "set", ["images"], [Archive(url, MD5)], "https://example.org/set")
        assert "cannot be downloaded" in str(caught.value)
        assert f"put set.bin (MD5 {MD5}), or what is unpacked from it (images), into {tmp_path / 'set'}" in str(
            caught.value
        )
        assert "https://example.org/set" in str(caught.value)


@pytest.mark.parametrize(
    "content",
    [
        tar({"../out.txt": b"x"}),
        tar({}, link=("in", "/etc")),
        tar({}, link=("in", "../..")),
        zipped({"../out.txt": b"x"}),
        zipped({"a/../../out.txt": b"x"}),
        zipped({"/out.txt": b"x"}),
        zipped({"..\\out.txt": b"x"}),
        tar({"a": bytes(CONTENT)})[:-900],
    ],
    ids=["tar up", "link out", "link up", "zip up", "zip down and up", "zip absolute", "zip backslash", "cut off"],
)
def test_nothing_is_written_outside_and_damage_is_named(tmp_path: Path, content: bytes) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "set.archive").write_bytes(content)
    with pytest.raises(StudyError, match=r"set\.archive: "):
        unpack(folder / "set.archive", folder)
    assert [file.name for file in tmp_path.iterdir()] == ["folder"]
    assert not (folder / "in").exists()


def test_half_unpacked_is_unpacked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = zipped({"images/1.txt": b"one", "images/2.txt": b"two"})
    (tmp_path / "set.zip").write_bytes(content)
    archive = Archive("http://127.0.0.1:9/set.zip", hashlib.md5(content).hexdigest())

    def half(path: Path, folder: Path) -> None:
        (folder / "images").mkdir()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(archives, "unpack", half)
        with pytest.raises(KeyboardInterrupt):
            provide(tmp_path, ["images"], [archive], "")
    provide(tmp_path, ["images"], [archive], "")
    assert (tmp_path / "images/2.txt").read_bytes() == b"two"
    # Once ready, the archive may go.
    (tmp_path / "set.zip").unlink()
    provide(tmp_path, ["images"], [archive], "")


# ── datasets ────────────────────────────────────────────────────────────────────────────────────────────────


TORCHVISION = {
    "eurosat": datasets.EuroSAT,
    "gtsrb": datasets.GTSRB,
    "dtd": datasets.DTD,
    "food101": datasets.Food101,
    "svhn": datasets.SVHN,
    "full_mnist": datasets.MNIST,
}


@pytest.mark.parametrize("kind", TORCHVISION)
def test_addresses_and_checksums_are_torchvisions(kind: str) -> None:
    """So that we hear of it when a dataset moves."""
    theirs = inspect.getsource(TORCHVISION[kind])
    for archive in archives_of(kind):
        site, name = archive.url.rsplit("/", 1)
        assert all(part in theirs for part in (site, name, archive.md5)), archive


@pytest.fixture(params=SETS)
def published(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A source whose archives lie under the root; in the module, their checksums alone are replaced."""
    name: str = request.param
    folder, fixture, classes = SETS[name]
    monkeypatch.setenv("ADVMERGE_DATA", str(tmp_path))
    files = fixture(classes)
    place = tmp_path / folder
    place.mkdir(parents=True, exist_ok=True)
    for file, content in files.items():
        (place / file).write_bytes(content)
    module, found = importlib.import_module(f"advmerge.data.{SOURCES[name]}"), md5s(files)

    def pinned(archive: Archive) -> Archive:
        return archive._replace(md5=found.get(archive.file, archive.md5))

    if isinstance(module.ARCHIVES, dict):
        monkeypatch.setattr(module, "ARCHIVES", {key: pinned(value) for key, value in module.ARCHIVES.items()})
    else:
        monkeypatch.setattr(module, "ARCHIVES", tuple(map(pinned, module.ARCHIVES)))
    return name


def test_the_official_split_the_labels_and_the_pixels(published: str) -> None:
    """Every image's colour says which one it is: in the right split, with the right label, once."""
    data = make(published, SIZES, 0, SHAPE, {})
    assert data.classes == (DIGITS if published in ("svhn", "full_mnist") else SETS[published].classes)
    seen: set[tuple] = set()
    for split, size in SIZES.items():
        assert data.images[split].shape == (size, *SHAPE)
        assert data.labels[split].dtype == np.int64
        images = list(data.images[split])
        assert len(images) == size
        for image, label in zip(images, data.labels[split], strict=True):
            assert image.dtype == np.uint8
            middle = image[:, 8, 8].astype(int)
            official = "train" if split in ("train", "val", "adapt") or published == "eurosat" else "test"
            if published == "full_mnist":
                grey = middle[0] - (40 if official == "train" else 160)
                assert (middle == middle[0]).all()
                assert grey // 10 == label
                key = (official, int(label), int(grey % 10))
            else:
                red, green, blue = colour(official, int(label), 0)
                assert abs(middle[0] - red) <= 3  # JPEG
                assert abs(middle[1] - green) <= 3
                key = (official, int(label), round((middle[2] - blue) / 11))
            assert key not in seen
            seen.add(key)
    assert len(seen) == sum(SIZES.values())


def test_the_same_seed_draws_the_same_images(published: str) -> None:
    first, again, other = (source(published)(SIZES, seed, SHAPE) for seed in (0, 0, 1))
    for split in SIZES:
        assert np.array_equal(np.stack(list(first.images[split])), np.stack(list(again.images[split])))
    assert any(
        not np.array_equal(np.stack(list(first.images[split])), np.stack(list(other.images[split]))) for split in SIZES
    )


def test_more_images_than_the_official_split_has(published: str) -> None:
    with pytest.raises(StudyError, match=r"the splits want 4\d images in all, and there are (12|15|24)"):
        make(published, SIZES | {"test": 30, "attack": 11}, 0, SHAPE, {})


def test_grey_backbones_get_grey_images(published: str) -> None:
    data = make(published, SIZES, 0, (1, 12, 12), {})
    assert next(iter(data.images["test"])).shape == (1, 12, 12)


def test_cifar_records_of_another_length_are_refused(tmp_path: Path) -> None:
    (tmp_path / "batch.bin").write_bytes(bytes(3073 * 2 + 1))
    with pytest.raises(StudyError, match="the records are not of 3073 bytes"):
        cifar._read([tmp_path / "batch.bin"], 1)
