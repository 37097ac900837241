"""Lazy reading, streamed writing, and the command line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from huggingface_hub import save_torch_state_dict
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from zoo import BACKBONE, Zoo

from advmerge.artifacts import metadata, save_tensors
from advmerge.cli import main, methods, parse_options
from advmerge.errors import StudyError
from advmerge.merging import MODULES, method
from advmerge.merging.engine import check_models, merge
from advmerge.merging.files import DTYPES, Lazy, merge_files, write_like
from advmerge.models import Model, to_unit

METADATA = {"format": "pt", "license": "ü"}


def write(path: Path, tensors: dict[str, Tensor]) -> Path:
    save_file({name: tensor.detach().contiguous() for name, tensor in tensors.items()}, path, METADATA)
    return path


@pytest.fixture
def files(zoo: Zoo, tmp_path: Path) -> dict[str, Path]:
    """The zoo's encoder and experts with a counter, as foreign checkpoints."""
    models = {"p": zoo.pretrained, **zoo.finetuned}
    return {
        name: write(tmp_path / f"{name}.safetensors", {**state, "count": torch.tensor(i)})
        for i, (name, state) in enumerate(models.items())
    }


def experts(files: dict[str, Path]) -> list[Path]:
    return [files[name] for name in ("red", "green", "blue")]


# ── reading ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_lazy_mapping_is_the_file(files: dict[str, Path]) -> None:
    lazy, eager = Lazy(files["p"]), load_file(files["p"])
    assert set(lazy) == set(eager)
    assert len(lazy) == len(eager)
    assert "nothing" not in lazy
    for name, tensor in eager.items():
        assert torch.equal(lazy[name], tensor)
        assert lazy.specification[name] == (tensor.dtype, tuple(tensor.shape))
    assert lazy.metadata == METADATA
    with pytest.raises(KeyError):
        lazy["nothing"]


def test_every_type_of_the_format_comes_and_goes(tmp_path: Path) -> None:
    tensors = {name: torch.ones(3, 2).to(dtype) for name, dtype in DTYPES.items()}
    write(tmp_path / "x.safetensors", tensors)
    lazy = Lazy(tmp_path / "x.safetensors")
    write_like(tmp_path / "y.safetensors", lazy, lazy.items(), {})
    again = load_file(tmp_path / "y.safetensors")
    for name, tensor in tensors.items():
        assert again[name].dtype == tensor.dtype
        assert torch.equal(again[name].view(torch.uint8), tensor.view(torch.uint8))


def test_a_pickle_is_refused_in_one_sentence_and_never_read(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "sprung",))

    for name, zipped in (("new.bin", True), ("old.pt", False)):
        torch.save(Trap(), tmp_path / name, _use_new_zipfile_serialization=zipped)
        with pytest.raises(StudyError, match=rf"{name}: is a pickle, which runs code when it is read; convert it"):
            Lazy(tmp_path / name)
    assert not (tmp_path / "sprung").exists()


def test_other_files_are_refused(tmp_path: Path, files: dict[str, Path]) -> None:
    with pytest.raises(StudyError, match=r"none\.safetensors: no such file or folder"):
        Lazy(tmp_path / "none.safetensors")
    (tmp_path / "text").write_text("hello, world")
    with pytest.raises(StudyError, match="text: not a readable safetensors file"):
        Lazy(tmp_path / "text")
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(files["p"].read_bytes()[:-10])
    with pytest.raises(StudyError, match=r"cut\.safetensors: not a readable safetensors file"):
        Lazy(cut)


def shard(state: dict[str, Tensor], folder: Path, size: int = 5_000) -> Path:
    """A folder as the hub has it, in files of so many bytes."""
    folder.mkdir()
    save_torch_state_dict(state, folder, max_shard_size=size)
    return folder


def test_a_folder_of_the_hub_is_merged_as_one_file_is(files: dict[str, Path], tmp_path: Path) -> None:
    folders = {name: shard(load_file(path), tmp_path / name, 4_000 + 1_000 * len(name)) for name, path in files.items()}
    assert len(list(folders["p"].glob("*.safetensors"))) > 2
    lazy, eager = Lazy(folders["p"]), load_file(files["p"])
    assert set(lazy) == set(eager)
    assert all(torch.equal(lazy[name], tensor) for name, tensor in eager.items())
    merge_files("ties", files["p"], experts(files), tmp_path / "one.safetensors", keep=0.2, scale=1.0)
    command = [
        "merge",
        "--method",
        "ties",
        "--option",
        "keep=0.2",
        "scale=1.0",
        "--out",
        str(tmp_path / "two.safetensors"),
    ]
    named = [str(folders["red"]), str(files["green"]), str(folders["blue"])]
    assert main([*command, "--pretrained", str(folders["p"]), "--experts", *named]) == 0
    one, two = (load_file(tmp_path / f"{name}.safetensors") for name in ("one", "two"))
    assert set(one) == set(two)
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert metadata(tmp_path / "two.safetensors")["slice"]["experts"] == ["red", "green", "blue"]

    for inside in folders["red"].glob("*-00001-*"):
        before = inside.read_bytes()
        with pytest.raises(StudyError, match="is one of the models that are merged"):
            merge_files("average", folders["p"], [folders["red"]], inside)
        assert inside.read_bytes() == before
    with pytest.raises(StudyError, match="blue: is a folder; expected the name of a safetensors file"):
        merge_files("average", folders["p"], [folders["red"]], folders["blue"])


def test_a_folder_that_cannot_be_right_is_refused(files: dict[str, Path], tmp_path: Path) -> None:
    folder = shard(load_file(files["p"]), tmp_path / "model")
    index = folder / "model.safetensors.index.json"
    right = json.loads(index.read_text())
    name, place = next(iter(right["weight_map"].items()))
    others = sorted(set(right["weight_map"].values()) - {place})

    def refused(said: str) -> None:
        with pytest.raises(StudyError, match=said):
            Lazy(folder)

    for wrong in ("{", "[]", "{}", '{"weight_map": 3}', '{"weight_map": {"a": 3}}'):
        index.write_text(wrong)
        refused(r"index\.json: expected JSON with a 'weight_map' of tensor names to file names")
    for elsewhere in ("../p.safetensors", str(files["p"]), ""):
        index.write_text(json.dumps({"weight_map": right["weight_map"] | {name: elsewhere}}))
        refused(f"index\\.json: places '{name}' outside its folder, in '{elsewhere}'")
    index.write_text(json.dumps({"weight_map": right["weight_map"] | {"extra": place}}))
    refused(f"{place}: lacks the tensor 'extra', against its index")
    index.write_text(json.dumps({"weight_map": right["weight_map"] | {name: others[0]}}))
    refused(f"holds the tensor '{name}', against its index|lacks the tensor '{name}', against its index")
    index.write_text(json.dumps(right))
    (folder / others[0]).unlink()
    refused(f"{others[0]}: no such file")
    index.unlink()
    refused(
        r"model: holds \d+ safetensors files and 0 files \*\.safetensors\.index\.json; expected one file, or one index"
    )


def test_names_and_shapes_are_compared_without_reading_a_tensor(
    files: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = load_file(files["green"])
    wrong["norm_extra"] = torch.ones(1)
    write(files["green"], wrong)

    def explode(*_: object) -> Tensor:
        raise AssertionError("a tensor was read")

    monkeypatch.setattr(Lazy, "__getitem__", explode)
    with pytest.raises(StudyError, match="expert 'green': has a tensor 'norm_extra' that the pretrained model lacks"):
        check_models(Lazy(files["p"]), {"red": Lazy(files["red"]), "green": Lazy(files["green"])})


# ── writing ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_equal_input_gives_equal_bytes_that_safetensors_reads(files: dict[str, Path], tmp_path: Path) -> None:
    lazy = Lazy(files["p"])
    for name in ("one", "two"):
        write_like(tmp_path / name, lazy, lazy.items(), {"b": "1", "a": "é"})
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    eager, again = load_file(files["p"]), load_file(tmp_path / "one")
    assert set(eager) == set(again)
    assert all(torch.equal(eager[name], again[name]) for name in eager)
    with safe_open(tmp_path / "one", framework="pt") as file:
        assert file.metadata() == {"a": "é", "b": "1"}


def test_a_write_that_fails_leaves_what_was_there(files: dict[str, Path], tmp_path: Path) -> None:
    lazy, target = Lazy(files["p"]), tmp_path / "out" / "m.safetensors"
    target.parent.mkdir()
    target.write_bytes(b"old")
    items = list(lazy.items())
    for wrong in (items[:-1], items[1:], [*items, ("more", torch.ones(1))], [(items[0][0], torch.ones(9)), *items[1:]]):
        with pytest.raises(ValueError, match=r"header"):
            write_like(target, lazy, wrong, {})
    assert target.read_bytes() == b"old"
    assert list(target.parent.iterdir()) == [target]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("average", {}),
        ("task_arithmetic", {"scale": 0.3}),
        ("ties", {"scale": 1, "keep": 0.2}),
        ("dare_ties", {"scale": 1, "keep": 0.2}),
        ("pcb", {}),
        ("tsv", {}),
    ],
)
def test_merging_files_is_merging_in_memory(
    files: dict[str, Path], tmp_path: Path, name: str, options: dict[str, Any], dtype: torch.dtype
) -> None:
    for path in files.values():
        write(path, {k: v.to(dtype) if v.is_floating_point() else v for k, v in load_file(path).items()})
    merge_files(name, files["p"], experts(files), tmp_path / "m.safetensors", seed=2, **options)
    states = {path.stem: load_file(path) for path in experts(files)}
    expected = merge(name, load_file(files["p"]), states, seed=2, **options)
    found = load_file(tmp_path / "m.safetensors")
    assert set(found) == set(expected)
    for key, tensor in expected.items():
        assert torch.equal(found[key], tensor)
        assert found[key].dtype == tensor.dtype
    with safe_open(tmp_path / "m.safetensors", framework="pt") as file:
        said = file.metadata()
    assert said["license"] == "ü"
    made = {"method": name, "options": options, "seed": 2, "task": None, "experts": ["red", "green", "blue"]}
    assert json.loads(said["advmerge"]) == {"rule": "merge", "slice": made}


def test_a_merge_of_a_studys_encoders_is_an_encoder_of_the_study(zoo: Zoo, tmp_path: Path) -> None:
    save_tensors(tmp_path / "p.safetensors", zoo.pretrained, {"backbone": BACKBONE})
    for task, state in zoo.finetuned.items():
        save_tensors(tmp_path / f"{task}.safetensors", state, {"backbone": BACKBONE})
    named = {task: tmp_path / f"{task}.safetensors" for task in zoo.finetuned}
    merge_files("emr", tmp_path / "p.safetensors", named, tmp_path / "m.safetensors", task="green")
    images = to_unit(zoo.images["green"])
    whole = merge("emr", zoo.pretrained, zoo.finetuned)
    save_tensors(tmp_path / "whole.safetensors", whole, {"backbone": BACKBONE})
    one = Model(tmp_path / "m.safetensors").encoder()(images)
    torch.testing.assert_close(one, Model(tmp_path / "whole.safetensors").encoder("green")(images))


def test_an_ordinary_timm_checkpoint_is_merged_and_loaded_by_timm(tmp_path: Path) -> None:
    """A convolutional network: its batch norm's counters are no floats."""
    models = {name: timm.create_model("test_byobnet", pretrained=False) for name in ("p", "a", "b")}
    for name, model in models.items():
        write(tmp_path / f"{name}.safetensors", model.state_dict())
    out = tmp_path / "m.safetensors"
    merge_files("average", tmp_path / "p.safetensors", [tmp_path / "a.safetensors", tmp_path / "b.safetensors"], out)
    merged = timm.create_model("test_byobnet", pretrained=False, checkpoint_path=str(out))
    state = {name: model.state_dict() for name, model in models.items()}
    for key, tensor in merged.state_dict().items():
        if tensor.is_floating_point():
            torch.testing.assert_close(tensor, (state["a"][key] + state["b"][key]) / 2)
        else:
            assert torch.equal(tensor, state["p"][key])


# ── the command line ────────────────────────────────────────────────────────────────────────────────────────


def run(files: dict[str, Path], *arguments: object) -> int:
    paths = ["--pretrained", files["p"], "--experts", *experts(files), "--out", files["p"].parent / "m.safetensors"]
    return main(["merge", *map(str, [*paths, *arguments])])


def test_the_command_line_merges(files: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(files, "--method", "task_arithmetic", "--option", "scale=0.3") == 0
    expected = merge(
        "task_arithmetic",
        load_file(files["p"]),
        {path.stem: load_file(path) for path in experts(files)},
        scale=0.3,
    )
    found = load_file(tmp_path / "m.safetensors")
    assert all(torch.equal(found[key], tensor) for key, tensor in expected.items())
    assert capsys.readouterr() == ("", "")


def test_the_command_line_runs_as_a_program(files: dict[str, Path], tmp_path: Path) -> None:
    command = [sys.executable, "-m", "advmerge.cli", "merge", "--method", "average", "--pretrained", files["p"]]
    command += ["--experts", *experts(files), "--out", tmp_path / "new" / "m.safetensors"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2] / "src")}
    subprocess.run(list(map(str, command)), check=True, env=environment)
    assert metadata(tmp_path / "new" / "m.safetensors")["slice"]["method"] == "average"


def test_named_experts_and_weights(files: dict[str, Path], tmp_path: Path) -> None:
    command = ["merge", "--method", "weighted", "--option", "weights={a: 0.5, b: 0}", "--pretrained", files["p"]]
    command += ["--experts", f"a={files['red']}", f"b={files['blue']}", "--out", tmp_path / "m.safetensors"]
    assert main(list(map(str, command))) == 0
    found, base, red = (load_file(p) for p in (tmp_path / "m.safetensors", files["p"], files["red"]))
    torch.testing.assert_close(found["fc_norm.bias"], (base["fc_norm.bias"] + red["fc_norm.bias"]) / 2)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--method", "tie"], "unknown merging method 'tie'; choose one of: adamerging"),
        (["--method", "ties", "--option", "scale=1"], "--option: method 'ties' needs the option 'keep'"),
        (["--method", "ties", "--option", "scale=1", "keep=2"], "--option.keep: 2 is not a number between 0 and 1"),
        (["--method", "average", "--option", "output=3"], "--option: unknown option 'output'"),
        (["--method", "ties", "--option", "scale"], "--option scale: expected name=value"),
        (["--method", "ties", "--option", "scale=1", "scale=2"], "--option scale: given twice"),
        (["--method", "ties", "--option", "scale={"], "--option scale={: the value is not readable as YAML"),
        (["--method", "adamerging"], "merging method 'adamerging' adapts on images"),
        (["--method", "emr"], "makes a model a task: give the task, one of: red, green, blue"),
        (["--method", "emr", "--task", "grey"], "unknown expert 'grey'; choose one of: blue, green, red"),
        (["--method", "slerp"], "joins two experts, not 3"),
    ],
)
def test_the_command_line_says_what_is_wrong_in_one_sentence(
    files: dict[str, Path], arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(files, *arguments) == 1
    out, error = capsys.readouterr()
    assert out == ""
    assert error.startswith("error: ")
    assert said in error
    assert error.count("\n") == 1
    assert not list(files["p"].parent.glob("*m.safetensors*"))


def test_the_command_line_refuses_a_pickle_a_twin_and_its_own_input(
    files: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save({}, tmp_path / "x.bin")
    average = ["merge", "--method", "average", "--out", str(tmp_path / "m.safetensors")]
    p, red = str(files["p"]), str(files["red"])
    for arguments, said in (
        ([*average, "--pretrained", p, "--experts", red, str(tmp_path / "x.bin")], "x.bin: is a pickle"),
        ([*average, "--pretrained", str(tmp_path / "x.bin"), "--experts", red], "x.bin: is a pickle"),
        ([*average, "--pretrained", p, "--experts", red, red], "an expert is given twice"),
        ([*average, "--pretrained", p, "--experts", red, f"b={red}"], "give every expert a name"),
        ([*average, "--pretrained", p, "--experts", f"b={p}", f"b={red}"], "a name is given twice"),
        ([*average, "--pretrained", p, "--experts", red, "--out", red], "is one of the models that are merged"),
    ):
        assert main(arguments) == 1
        assert said in capsys.readouterr().err


def test_option_values_are_yaml_and_plain_exponents() -> None:
    found = parse_options(["a=0.3", "b=1e-3", "c=true", "d=[1, 2]", "e={x: 1}", "f=sum", "g=3"])
    assert found == {"a": 0.3, "b": 0.001, "c": True, "d": [1, 2], "e": {"x": 1}, "f": "sum", "g": 3}


def test_the_list_of_methods_names_each_with_its_options(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["methods"]) == 0
    said = capsys.readouterr().out
    assert said == methods() + "\n"
    assert all(f"\n{name} (" in f"\n{said}" for name in MODULES)
    assert "    aggregate: sum | mean, default sum" in said
    assert "    scale: -10 to 10\n" in said
    assert "weights: one number an expert" in said
    assert all(method(name).function.__doc__.splitlines()[0] in said for name in MODULES)
