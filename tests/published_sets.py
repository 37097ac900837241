"""Tiny published datasets, each as the archives that its true layout comes in."""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
import struct
import tarfile
import zipfile
from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from scipy.io import savemat

from advmerge.data import archives_of
from advmerge.data.archives import unpack

TRAIN, TEST = 4, 4  # images a class, where nobody says
Files = dict[str, bytes]


def colour(split: str, label: int, index: int) -> tuple[int, int, int]:
    """A colour that tells an image's official split, label and number, of the first twelve labels."""
    return (40 if split == "train" else 200, 10 + 20 * (label % 12), 5 + 11 * (index % 22))


def pixels(split: str, label: int, index: int, height: int = 20, width: int = 24) -> np.ndarray:
    """An image of one colour, uint8 [height, width, 3]."""
    return np.full((height, width, 3), colour(split, label, index), dtype=np.uint8)


def picture(split: str, label: int, index: int, form: str = "png") -> bytes:
    buffer = io.BytesIO()
    options = {"quality": 100, "subsampling": 0} if form == "jpeg" else {}
    Image.fromarray(pixels(split, label, index)).save(buffer, form, **options)
    return buffer.getvalue()


def tar(members: Files, link: tuple[str, str] | None = None) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as file:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            file.addfile(info, io.BytesIO(content))
        if link:
            info = tarfile.TarInfo(link[0])
            info.type, info.linkname = tarfile.SYMTYPE, link[1]
            file.addfile(info)
    return buffer.getvalue()


def zipped(members: Files) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for name, content in members.items():
            file.writestr(name, content)
    return buffer.getvalue()


def _mat(content: dict[str, Any]) -> bytes:
    buffer = io.BytesIO()
    savemat(buffer, content)
    return buffer.getvalue()


def _dealt(classes: Sequence[str], count: int) -> list[tuple[int, int]]:
    """(label, number) of ``count`` images a class, the classes taking turns."""
    return [(label, number) for number, label in product(range(count), range(len(classes)))]


def cars(classes: Sequence[str], train: int = TRAIN, test: int = TEST) -> Files:
    fields = [("bbox_x1", "O"), ("class", "O"), ("fname", "O")]
    parts: dict[str, Files] = {}
    annotations = {}
    for split, count in (("train", train), ("test", test)):
        dealt = list(enumerate(_dealt(classes, count), 1))
        parts[split] = {f"cars_{split}/{place:05d}.jpg": picture(split, *shown, "jpeg") for place, shown in dealt}
        rows = [(np.uint8(1), np.uint8(label + 1), f"{place:05d}.jpg") for place, (label, _) in dealt]
        annotations[split] = _mat({"annotations": np.array([rows], dtype=fields)})
    meta = _mat({"class_names": np.array(classes, dtype=object)})
    return {
        "car_devkit.tgz": tar({"devkit/cars_meta.mat": meta, "devkit/cars_train_annos.mat": annotations["train"]}),
        "cars_train.tgz": tar(parts["train"]),
        "cars_test.tgz": tar(parts["test"]),
        "cars_test_annos_withlabels.mat": annotations["test"],
    }


def eurosat(classes: Sequence[str], train: int = TRAIN, test: int = TEST) -> Files:
    """There is no official split."""
    dealt = _dealt(classes, train + test)
    return {
        "EuroSAT.zip": zipped(
            {
                f"2750/{classes[label]}/{classes[label]}_{number}.jpg": picture("train", label, number, "jpeg")
                for label, number in dealt
            }
        )
    }


def svhn(classes: Sequence[str], train: int = TRAIN, test: int = TEST) -> Files:
    found = {}
    for split, count in (("train", train), ("test", test)):
        dealt = _dealt(classes, count)
        images = np.stack([pixels(split, label, number, 32, 32) for label, number in dealt], axis=-1)
        labels = np.array([[label or 10] for label, _ in dealt], dtype=np.uint8)
        found[f"{split}_32x32.mat"] = _mat({"X": images, "y": labels})
    return found


def gtsrb(classes: Sequence[str], train: int = TRAIN, test: int = TEST) -> Files:
    training = {}
    for label, name in enumerate(classes):
        training[f"GTSRB/Training/{name}/GT-{name}.csv"] = b"Filename;Width;Height;ClassId\n"
        for number in range(train):
            training[f"GTSRB/Training/{name}/00000_{number:05d}.ppm"] = picture("train", label, number, "ppm")
    table = io.StringIO()
    writer = csv.writer(table, delimiter=";")
    writer.writerow(["Filename", "Width", "Height", "Roi.X1", "Roi.Y1", "Roi.X2", "Roi.Y2", "ClassId"])
    images = {}
    for place, (label, number) in enumerate(_dealt(classes, test)):
        images[f"GTSRB/Final_Test/Images/{place:05d}.ppm"] = picture("test", label, number, "ppm")
        writer.writerow([f"{place:05d}.ppm", 20, 24, 1, 1, 19, 23, label])
    return {
        "GTSRB-Training_fixed.zip": zipped(training),
        "GTSRB_Final_Test_Images.zip": zipped(images),
        "GTSRB_Final_Test_GT.zip": zipped({"GT-final_test.csv": table.getvalue().encode()}),
    }


def mnist(classes: Sequence[str], train: int = TRAIN, test: int = TEST) -> Files:
    """Grey: 40 + 10 × label + number for training digits, 120 more for test digits."""
    found = {}
    for prefix, split, count in (("train", "train", train), ("t10k", "test", test)):
        dealt = _dealt(classes, count)
        darkest = 40 if split == "train" else 160
        greys = np.array([darkest + (10 * label + number) % 90 for label, number in dealt], dtype=np.uint8)
        images = np.broadcast_to(greys[:, None, None], (len(dealt), 28, 28))
        labels = bytes(label for label, _ in dealt)
        head = struct.pack(">IIII", 2051, len(dealt), 28, 28)
        found[f"{prefix}-images-idx3-ubyte.gz"] = gzip.compress(head + images.tobytes())
        found[f"{prefix}-labels-idx1-ubyte.gz"] = gzip.compress(struct.pack(">II", 2049, len(dealt)) + labels)
    return found


def _by_class(classes: Sequence[str], train: int, test: int, form: str) -> tuple[Files, dict[str, list[str]]]:
    """``<class>/<class>_<number>.jpg``, and which are of a dataset's train, val and test lists."""
    members, lists = {}, {"train": [], "val": [], "test": []}
    for label, name in enumerate(classes):
        for number in range(train + test):
            part = "test" if number >= train else "val" if number >= train // 2 else "train"
            shown = ("test", label, number - train) if part == "test" else ("train", label, number)
            file = f"{name}/{name}_{number + 1:{form}}.jpg"
            members[file] = picture(*shown, "jpeg")
            lists[part].append(file)
    return members, lists


def dtd(classes: Sequence[str], train: int = TRAIN, test: int = TEST) -> Files:
    images, lists = _by_class(classes, train, test, "04d")
    members = {f"dtd/images/{file}": content for file, content in images.items()}
    for part, files in lists.items():
        members[f"dtd/labels/{part}1.txt"] = ("\n".join(files) + "\n").encode()
        members[f"dtd/labels/{part}2.txt"] = b""
    return {"dtd-r1.0.1.tar.gz": tar(members)}


def resisc45(classes: Sequence[str], train: int = TRAIN, test: int = TEST) -> Files:
    images, lists = _by_class(classes, train, test, "03d")
    members = {f"NWPU-RESISC45/{file}": content for file, content in images.items()}
    return {"NWPU-RESISC45.zip": zipped(members)} | {
        f"resisc45-{part}.txt": "\n".join(file.split("/")[1] for file in files).encode()
        for part, files in lists.items()
    }


def food101(classes: Sequence[str], train: int = TRAIN, test: int = TEST) -> Files:
    members = {}
    for split, count in (("train", train), ("test", test)):
        listing: dict[str, list[str]] = {name: [] for name in classes}
        for label, number in _dealt(classes, count):
            file = f"{classes[label]}/{label}{number}{len(split)}"
            listing[classes[label]].append(file)
            members[f"food-101/images/{file}.jpg"] = picture(split, label, number, "jpeg")
        members[f"food-101/meta/{split}.json"] = json.dumps(listing).encode()
    return {"food-101.tar.gz": tar(members)}


def _records(split: str, dealt: Sequence[tuple[int, int]], prefix: bytes) -> bytes:
    return b"".join(
        prefix + bytes([label]) + pixels(split, label, number, 32, 32).transpose(2, 0, 1).tobytes()
        for label, number in dealt
    )


def cifar10(classes: Sequence[str], train: int = TRAIN, test: int = TEST) -> Files:
    folder, dealt = "cifar-10-batches-bin", _dealt(classes, train)
    members = {f"{folder}/data_batch_{n + 1}.bin": _records("train", dealt[n::5], b"") for n in range(5)}
    members[f"{folder}/test_batch.bin"] = _records("test", _dealt(classes, test), b"")
    members[f"{folder}/batches.meta.txt"] = ("\n".join(classes) + "\n\n").encode()
    return {"cifar-10-binary.tar.gz": tar(members)}


def cifar100(classes: Sequence[str], train: int = TRAIN, test: int = TEST) -> Files:
    """The coarse label, 9, comes first and is not the class."""
    members = {
        "cifar-100-binary/train.bin": _records("train", _dealt(classes, train), b"\x09"),
        "cifar-100-binary/test.bin": _records("test", _dealt(classes, test), b"\x09"),
        "cifar-100-binary/fine_label_names.txt": ("\n".join(classes) + "\n").encode(),
        "cifar-100-binary/coarse_label_names.txt": b"aquatic_mammals\n",
    }
    return {"cifar-100-binary.tar.gz": tar(members)}


def tiny_imagenet(classes: Sequence[str], train: int = TRAIN, test: int = TEST) -> Files:
    synsets = [
        f"n{2000000 - label:08d}" for label in range(len(classes))
    ]  # not in alphabetical order, as in the real file
    words = ["n00001740\tentity", *(f"{s}\t{name}, another word" for s, name in zip(synsets, classes, strict=True))]
    members = {
        "wnids.txt": "\n".join(synsets).encode(),
        "words.txt": "\n".join(sorted(words)).encode(),
        "test/images/test_0.JPEG": picture("test", 7, 0, "jpeg"),
    }
    rows = []
    for label, synset in enumerate(synsets):
        members[f"train/{synset}/{synset}_boxes.txt"] = b""
        for number in range(train):
            members[f"train/{synset}/images/{synset}_{number}.JPEG"] = picture("train", label, number, "jpeg")
        for number in range(test):
            name = f"val_{test * label + number}.JPEG"
            members[f"val/images/{name}"] = picture("test", label, number, "jpeg")
            rows.append(f"{name}\t{synset}\t0\t32\t44\t62\n")
    members["val/val_annotations.txt"] = "".join(rows).encode()
    return {"tiny-imagenet-200.zip": zipped({f"tiny-imagenet-200/{name}": body for name, body in members.items()})}


def cub200(classes: Sequence[str], train: int = TRAIN, test: int = TEST) -> Files:
    names = [f"{label:03d}.{name.replace(' ', '_')}" for label, name in enumerate(classes, 1)]
    lists: dict[str, list[str]] = {"images": [], "image_class_labels": [], "train_test_split": []}
    members = {"attributes.txt": b""}
    for identity, (label, number) in enumerate(_dealt(classes, train + test), 1):
        split, index = ("train", number) if number < train else ("test", number - train)
        file = f"{names[label]}/{names[label]}_{number:04d}.jpg"
        members[f"CUB_200_2011/images/{file}"] = picture(split, label, index, "jpeg")
        lists["images"].append(f"{identity} {file}")
        lists["image_class_labels"].append(f"{identity} {label + 1}")
        lists["train_test_split"].append(f"{identity} {int(split == 'train')}")
    for name, lines in lists.items():
        members[f"CUB_200_2011/{name}.txt"] = ("\n".join(lines) + "\n").encode()
    members["CUB_200_2011/classes.txt"] = "".join(f"{i} {name}\n" for i, name in enumerate(names, 1)).encode()
    return {"CUB_200_2011.tgz": tar(members)}


class Published(NamedTuple):
    """Where a source's archives lie under the root, how tiny ones are made, and three of its classes."""

    folder: str
    make: Callable[..., Files]
    classes: list[str]


DIGITS = [str(digit) for digit in range(10)]
SETS = {
    "stanford_cars": Published(
        "stanford_cars", cars, ["AM General Hummer SUV 2000", "Acura RL Sedan 2012", "Audi S4 Sedan 2007"]
    ),
    "eurosat": Published("eurosat", eurosat, ["AnnualCrop", "Forest", "SeaLake"]),
    "svhn": Published("", svhn, DIGITS[:3]),
    "gtsrb": Published("gtsrb", gtsrb, ["00000", "00001", "00002"]),
    "full_mnist": Published("MNIST/raw", mnist, DIGITS[:3]),
    "dtd": Published("dtd", dtd, ["banded", "dotted", "polka-dotted"]),
    "food101": Published("", food101, ["apple_pie", "baklava", "waffles"]),
    "cifar10": Published("", cifar10, ["airplane", "automobile", "bird"]),
    "cifar100": Published("", cifar100, ["apple", "aquarium_fish", "baby"]),
    "tiny_imagenet": Published("", tiny_imagenet, ["Egyptian cat", "reel", "goldfish"]),
    "cub200": Published("", cub200, ["Black footed Albatross", "Laysan Albatross", "Sooty Albatross"]),
    "resisc45": Published("resisc45", resisc45, ["airplane", "golf_course", "sea_ice"]),
}


def md5s(files: Files) -> dict[str, str]:
    return {name: hashlib.md5(content).hexdigest() for name, content in files.items()}


def leave(root: Path, kind: str, classes: Sequence[str], train: int = TRAIN, test: int = TEST) -> None:
    """Put a tiny dataset under the root of all downloads, as a finished download leaves it: unpacked, checked, ready."""
    place = root / SETS[kind].folder
    place.mkdir(parents=True, exist_ok=True)
    for name, content in SETS[kind].make(classes, train, test).items():
        (place / name).write_bytes(content)
        unpack(place / name, place)
    (place / f".{archives_of(kind)[0].file}.ready").touch()
