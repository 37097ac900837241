"""Published datasets, each from a tiny archive in its true layout, through the real download and unpacking code."""

from __future__ import annotations

import csv
import gzip
import hashlib
import http.server
import io
import json
import struct
import tarfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from advmerge.data import (
    archives,
    cifar,
    cub200,
    dtd,
    eurosat,
    food101,
    full_mnist,
    gtsrb,
    make,
    resisc45,
    source,
    stanford_cars,
    svhn,
    tiny_imagenet,
)
from advmerge.data.archives import Archive, fetch, provide, unpack
from advmerge.errors import StudyError

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
    with pytest.raises(StudyError, match=f"has the MD5 .*, and {MD5} is expected"):
        fetch(Archive(server.url, MD5), tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == []


def test_an_archive_on_disk_is_checked(tmp_path: Path) -> None:
    (tmp_path / "set.bin").write_bytes(CONTENT[1:])
    with pytest.raises(StudyError, match=r"set.bin: has the MD5 .* is expected; delete it to download it again"):
        provide(tmp_path, ["set.bin"], [Archive("http://127.0.0.1:9/set.bin", MD5)], "the page")


def test_a_dead_source_gives_the_recipe(tmp_path: Path, serve: Callable[..., Server]) -> None:
    gone = serve(b"", []).url  # it answers 416: an HTTP error
    for url in (gone, "http://127.0.0.1:9/set.bin"):
        with pytest.raises(StudyError) as caught:
            provide(tmp_path / "set", ["images"], [Archive(url, MD5)], "https://example.org/set")
        assert "cannot be downloaded" in str(caught.value)
        assert f"put set.bin (MD5 {MD5}), or images themselves, into {tmp_path / 'set'}" in str(caught.value)
        assert "https://example.org/set" in str(caught.value)


def _tar(members: dict[str, bytes], link: tuple[str, str] | None = None) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
        if link:
            info = tarfile.TarInfo(link[0])
            info.type, info.linkname = tarfile.SYMTYPE, link[1]
            tar.addfile(info)
    return buffer.getvalue()


def _zip(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for name, content in members.items():
            file.writestr(name, content)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "content",
    [
        _tar({"../out.txt": b"x"}),
        _tar({}, link=("in", "/etc")),
        _tar({}, link=("in", "../..")),
        _zip({"../out.txt": b"x"}),
        _zip({"a/../../out.txt": b"x"}),
        _zip({"/out.txt": b"x"}),
        _zip({"..\\out.txt": b"x"}),
        _tar({"a": bytes(CONTENT)})[:-900],
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
    content = _zip({"images/1.txt": b"one", "images/2.txt": b"two"})
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


def colour(split: str, label: int, index: int) -> tuple[int, int, int]:
    """A colour that tells an image's official split, label and number."""
    return (40 if split == "train" else 200, 10 + 20 * label, 5 + 11 * index)


def picture(split: str, label: int, index: int, form: str = "png", side: int = 20) -> bytes:
    buffer = io.BytesIO()
    options = {"quality": 100, "subsampling": 0} if form == "jpeg" else {}
    Image.new("RGB", (side, side + 4), colour(split, label, index)).save(buffer, form, **options)
    return buffer.getvalue()


def _mat(content: dict[str, Any]) -> bytes:
    buffer = io.BytesIO()
    savemat(buffer, content)
    return buffer.getvalue()


def cars_fixture() -> dict[str, bytes]:
    fields = [("bbox_x1", "O"), ("class", "O"), ("fname", "O")]
    parts: dict[str, dict[str, bytes]] = {"train": {}, "test": {}}
    rows: dict[str, list[tuple]] = {"train": [], "test": []}
    for split in parts:
        for number in range(12):
            name = f"{number + 1:05d}.jpg"
            parts[split][f"cars_{split}/{name}"] = picture(split, number % 3, number // 3, "jpeg")
            rows[split].append((np.uint8(1), np.uint8(number % 3 + 1), name))
    names = np.array(["AM General Hummer SUV 2000", "Acura RL Sedan 2012", "Audi S4 Sedan 2007"], dtype=object)
    annotations = {split: _mat({"annotations": np.array([row], dtype=fields)}) for split, row in rows.items()}
    return {
        "car_devkit.tgz": _tar(
            {"devkit/cars_meta.mat": _mat({"class_names": names}), "devkit/cars_train_annos.mat": annotations["train"]}
        ),
        "cars_train.tgz": _tar(parts["train"]),
        "cars_test.tgz": _tar(parts["test"]),
        "cars_test_annos_withlabels.mat": annotations["test"],
    }


def eurosat_fixture() -> dict[str, bytes]:
    kinds = ["AnnualCrop", "Forest", "SeaLake"]
    return {
        "EuroSAT.zip": _zip(
            {
                f"2750/{kind}/{kind}_{number}.jpg": picture("train", label, number, "jpeg")
                for label, kind in enumerate(kinds)
                for number in range(8)
            }
        )
    }


def svhn_fixture() -> dict[str, bytes]:
    found = {}
    for split in ("train", "test"):
        pixels = np.zeros((32, 32, 3, 12), dtype=np.uint8)
        labels = np.zeros((12, 1), dtype=np.uint8)
        for number in range(12):
            label = number % 3
            pixels[..., number] = colour(split, label, number // 3)
            labels[number] = label or 10
        found[f"{split}_32x32.mat"] = _mat({"X": pixels, "y": labels})
    return found


def gtsrb_fixture() -> dict[str, bytes]:
    training = {}
    for label in range(3):
        training[f"GTSRB/Training/{label:05d}/GT-{label:05d}.csv"] = b"Filename;Width;Height;ClassId\n"
        for number in range(4):
            name = f"GTSRB/Training/{label:05d}/00000_{number:05d}.ppm"
            training[name] = picture("train", label, number, "ppm")
    table = io.StringIO()
    writer = csv.writer(table, delimiter=";")
    columns = ["Filename", "Width", "Height", "Roi.X1", "Roi.Y1", "Roi.X2", "Roi.Y2", "ClassId"]
    writer.writerow(columns)
    test = {}
    for number in range(12):
        name = f"{number:05d}.ppm"
        test[f"GTSRB/Final_Test/Images/{name}"] = picture("test", number % 3, number // 3, "ppm")
        writer.writerow([name, 20, 24, 1, 1, 19, 23, number % 3])
    return {
        "GTSRB-Training_fixed.zip": _zip(training),
        "GTSRB_Final_Test_Images.zip": _zip(test),
        "GTSRB_Final_Test_GT.zip": _zip({"GT-final_test.csv": table.getvalue().encode()}),
    }


def mnist_fixture() -> dict[str, bytes]:
    """Grey: 40 + 10 × label + number for training digits, 120 more for test digits."""
    found = {}
    for prefix, split in (("train", "train"), ("t10k", "test")):
        pixels = np.zeros((12, 28, 28), dtype=np.uint8)
        labels = np.arange(12, dtype=np.uint8) % 3
        for number in range(12):
            pixels[number] = (40 if split == "train" else 160) + 10 * (number % 3) + number // 3
        images = struct.pack(">IIII", 2051, 12, 28, 28) + pixels.tobytes()
        found[f"{prefix}-images-idx3-ubyte.gz"] = gzip.compress(images)
        found[f"{prefix}-labels-idx1-ubyte.gz"] = gzip.compress(struct.pack(">II", 2049, 12) + labels.tobytes())
    return found


def dtd_fixture() -> dict[str, bytes]:
    members = {}
    lists: dict[str, list[str]] = {"train": [], "val": [], "test": []}
    for label, name in enumerate(["banded", "dotted", "polka-dotted"]):
        for number in range(8):
            part = "train" if number < 2 else "val" if number < 4 else "test"
            file = f"{name}/{name}_{number:04d}.jpg"
            shown = ("train", label, number) if number < 4 else ("test", label, number - 4)
            members[f"dtd/images/{file}"] = picture(*shown, "jpeg")
            lists[part].append(file)
    for part, files in lists.items():
        members[f"dtd/labels/{part}1.txt"] = ("\n".join(files) + "\n").encode()
        members[f"dtd/labels/{part}2.txt"] = b""
    return {"dtd-r1.0.1.tar.gz": _tar(members)}


def food_fixture() -> dict[str, bytes]:
    members = {}
    listing: dict[str, dict[str, list[str]]] = {"train": {}, "test": {}}
    for label, name in enumerate(["apple_pie", "baklava", "waffles"]):
        for split in listing:
            listing[split][name] = []
            for number in range(4):
                file = f"{name}/{label}{number}{len(split)}"
                listing[split][name].append(file)
                members[f"food-101/images/{file}.jpg"] = picture(split, label, number, "jpeg")
    for split, names in listing.items():
        members[f"food-101/meta/{split}.json"] = json.dumps(names).encode()
    return {"food-101.tar.gz": _tar(members)}


def _records(split: str, numbers: range, prefix: bytes) -> bytes:
    records = []
    for number in numbers:
        pixels = np.empty((3, 32, 32), dtype=np.uint8)
        pixels[:] = np.array(colour(split, number % 3, number // 3), dtype=np.uint8)[:, None, None]
        records.append(prefix + bytes([number % 3]) + pixels.tobytes())
    return b"".join(records)


def cifar10_fixture() -> dict[str, bytes]:
    folder = "cifar-10-batches-bin"
    members = {f"{folder}/data_batch_{n}.bin": _records("train", range(3 * n - 3, 3 * n), b"") for n in range(1, 6)}
    members[f"{folder}/test_batch.bin"] = _records("test", range(12), b"")
    members[f"{folder}/batches.meta.txt"] = b"airplane\nautomobile\nbird\n\n"
    return {"cifar-10-binary.tar.gz": _tar(members)}


def cifar100_fixture() -> dict[str, bytes]:
    """The coarse label, 9, comes first and is not the class."""
    members = {
        "cifar-100-binary/train.bin": _records("train", range(12), b"\x09"),
        "cifar-100-binary/test.bin": _records("test", range(12), b"\x09"),
        "cifar-100-binary/fine_label_names.txt": b"apple\naquarium_fish\nbaby\n",
        "cifar-100-binary/coarse_label_names.txt": b"aquatic_mammals\n",
    }
    return {"cifar-100-binary.tar.gz": _tar(members)}


def tiny_fixture() -> dict[str, bytes]:
    synsets = ["n02124075", "n04067472", "n01443537"]  # not in alphabetical order, as in the real file
    members = {
        "wnids.txt": "\n".join(synsets).encode(),
        "words.txt": b"n00001740\tentity\nn01443537\tgoldfish, Carassius auratus\nn02124075\tEgyptian cat\nn04067472\treel\n",
        "test/images/test_0.JPEG": picture("test", 7, 0, "jpeg"),
    }
    rows = []
    for label, synset in enumerate(synsets):
        members[f"train/{synset}/{synset}_boxes.txt"] = b""
        for number in range(4):
            members[f"train/{synset}/images/{synset}_{number}.JPEG"] = picture("train", label, number, "jpeg")
            name = f"val_{4 * label + number}.JPEG"
            members[f"val/images/{name}"] = picture("test", label, number, "jpeg")
            rows.append(f"{name}\t{synset}\t0\t32\t44\t62\n")
    members["val/val_annotations.txt"] = "".join(rows).encode()
    return {"tiny-imagenet-200.zip": _zip({f"tiny-imagenet-200/{name}": body for name, body in members.items()})}


def cub_fixture() -> dict[str, bytes]:
    names = ["001.Black_footed_Albatross", "002.Laysan_Albatross", "003.Sooty_Albatross"]
    lists: dict[str, list[str]] = {"images": [], "image_class_labels": [], "train_test_split": []}
    members = {"attributes.txt": b""}
    identity = 0
    for label, name in enumerate(names):
        for number in range(8):
            identity += 1
            split = "train" if number % 2 else "test"
            file = f"{name}/{name}_{number:04d}.jpg"
            members[f"CUB_200_2011/images/{file}"] = picture(split, label, number // 2, "jpeg")
            lists["images"].append(f"{identity} {file}")
            lists["image_class_labels"].append(f"{identity} {label + 1}")
            lists["train_test_split"].append(f"{identity} {number % 2}")
    for name, lines in lists.items():
        members[f"CUB_200_2011/{name}.txt"] = ("\n".join(lines) + "\n").encode()
    members["CUB_200_2011/classes.txt"] = "".join(f"{i + 1} {name}\n" for i, name in enumerate(names)).encode()
    return {"CUB_200_2011.tgz": _tar(members)}


def resisc_fixture() -> dict[str, bytes]:
    members = {}
    lists: dict[str, list[str]] = {"train": [], "val": [], "test": []}
    for label, name in enumerate(["airplane", "golf_course", "sea_ice"]):
        for number in range(8):
            part = "train" if number < 2 else "val" if number < 4 else "test"
            file = f"{name}_{number + 1:03d}.jpg"
            shown = ("train", label, number) if number < 4 else ("test", label, number - 4)
            members[f"NWPU-RESISC45/{name}/{file}"] = picture(*shown, "jpeg")
            lists[part].append(file)
    return {"NWPU-RESISC45.zip": _zip(members)} | {
        f"resisc45-{part}.txt": "\n".join(files).encode() for part, files in lists.items()
    }


DATASETS: dict[str, tuple[Any, str, Callable[[], dict[str, bytes]], list[str]]] = {
    "stanford_cars": (
        stanford_cars,
        "stanford_cars",
        cars_fixture,
        ["AM General Hummer SUV 2000", "Acura RL Sedan 2012", "Audi S4 Sedan 2007"],
    ),
    "eurosat": (eurosat, "eurosat", eurosat_fixture, ["AnnualCrop", "Forest", "SeaLake"]),
    "svhn": (svhn, "", svhn_fixture, [str(digit) for digit in range(10)]),
    "gtsrb": (gtsrb, "gtsrb", gtsrb_fixture, ["00000", "00001", "00002"]),
    "full_mnist": (full_mnist, "MNIST/raw", mnist_fixture, [str(digit) for digit in range(10)]),
    "dtd": (dtd, "dtd", dtd_fixture, ["banded", "dotted", "polka-dotted"]),
    "food101": (food101, "", food_fixture, ["apple_pie", "baklava", "waffles"]),
    "cifar10": (cifar, "", cifar10_fixture, ["airplane", "automobile", "bird"]),
    "cifar100": (cifar, "", cifar100_fixture, ["apple", "aquarium_fish", "baby"]),
    "tiny_imagenet": (tiny_imagenet, "", tiny_fixture, ["Egyptian cat", "reel", "goldfish"]),
    "cub200": (cub200, "", cub_fixture, ["Black footed Albatross", "Laysan Albatross", "Sooty Albatross"]),
    "resisc45": (resisc45, "resisc45", resisc_fixture, ["airplane", "golf_course", "sea_ice"]),
}
"""Source → its module, its folder under the root, its fixture, and the classes expected."""


@pytest.fixture(params=DATASETS)
def published(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A source whose archives lie under the root; in the module, their checksums alone are replaced."""
    name: str = request.param
    module, folder, fixture, _ = DATASETS[name]
    monkeypatch.setenv("ADVMERGE_DATA", str(tmp_path))
    files = fixture()
    place = tmp_path / folder
    place.mkdir(parents=True, exist_ok=True)
    for file, content in files.items():
        (place / file).write_bytes(content)

    def pinned(archive: Archive) -> Archive:
        return archive._replace(md5=hashlib.md5(files[archive.file]).hexdigest()) if archive.file in files else archive

    if isinstance(module.ARCHIVES, dict):
        monkeypatch.setattr(module, "ARCHIVES", {key: pinned(value) for key, value in module.ARCHIVES.items()})
    else:
        monkeypatch.setattr(module, "ARCHIVES", tuple(map(pinned, module.ARCHIVES)))
    return name


def test_the_official_split_the_labels_and_the_pixels(published: str) -> None:
    """Every image's colour says which one it is: in the right split, with the right label, once."""
    data = make(published, SIZES, 0, SHAPE, {})
    assert data.classes == DATASETS[published][3]
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
