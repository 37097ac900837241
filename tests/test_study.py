"""The study file: what is refused, in which words, and what each artifact depends on."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from advmerge.errors import StudyError
from advmerge.study import Study, check, load

ROOT = Path(__file__).parents[1]
FILES = [ROOT / "params.yaml", *sorted((ROOT / "studies").glob("*.yaml"))]


@pytest.fixture
def content() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "studies/smoke.yaml").read_text())


def refused(tmp_path: Path, content: Any) -> str:
    """The sentence with which a study is refused."""
    path = tmp_path / "study.yaml"
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content, sort_keys=False))
    with pytest.raises(StudyError) as error:
        load(path)
    sentence = str(error.value)
    assert sentence.startswith(str(path))
    assert "\n" not in sentence
    return sentence.removeprefix(f"{path}: ")


def change(content: dict[str, Any], key: str, value: Any) -> dict[str, Any]:
    changed = copy.deepcopy(content)
    *parents, last = key.split("/")
    place = changed
    for part in parents:
        place = place[part]
    if value is KeyError:
        del place[last]
    else:
        place[last] = value
    return changed


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_study_that_ships_is_valid(path: Path) -> None:
    check(load(path))


def test_the_embedded_study_is_the_grid_of_the_paper() -> None:
    study = load(ROOT / "params.yaml")
    attacks = [name for name, entry in study.attacks.items() if entry["method"] != "UniformNoise"]
    assert len(study.tasks) * len(study.merging) * len(attacks) == 336
    assert len(study.targets) == 9
    with_budget = [cell for cell in study.cells().values() if cell.eps is not None]
    assert {cell.eps for cell in with_budget} == {4 / 255, 8 / 255}


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("sed", 1, "unknown key 'sed'; choose one of: attacks, backbone"),
        ("finetune/momentum", 0.9, "unknown key 'finetune.momentum'; choose one of: anchor, anchor_batch"),
        ("tasks/latin", {"corrupt": "ignore"}, "tasks.latin.corrupt: 'ignore' is none of: refuse, skip"),
        ("tasks/latin", {"corrupt": []}, "tasks.latin.corrupt: [] is none of: refuse, skip"),
        ("seed", KeyError, "the key 'seed' is missing"),
        ("hardware", KeyError, "the key 'hardware' is missing"),
        ("hardware/device", "gpu", "hardware.device: input should be 'auto', 'cuda', 'mps' or 'cpu', got 'gpu'"),
        (
            "hardware/precision/craft",
            "half",
            "hardware.precision.craft: input should be 'auto', 'float32' or 'bfloat16'",
        ),
        ("seed", -1, "seed: input should be greater than or equal to 0, got -1"),
        ("seed", "many", "seed: input should be a valid integer"),
        ("study", "a/b", "study: 'a/b' is not a folder name"),
        ("tasks", {}, "tasks: dictionary should have at least 1 item"),
        ("tasks/Latin", {}, "tasks.Latin: names are lower-case letters, digits and '_', a letter first"),
        ("merging/multitask", {"method": "average"}, "merging.multitask: the name is taken by the workflow"),
        ("merging/x", {"method": "average", "base": "y"}, "merging.x: give either 'method', or 'base' with 'surgery'"),
        (
            "merging/x",
            {"base": "nope", "surgery": {}},
            "merging.x.base: unknown 'nope'; choose one of: weight_averaging",
        ),
        ("attacks/x", {"eps": 0.1}, "attacks.x: lacks 'method'"),
        ("attacks/pgd/eps", 2, "attacks.pgd.eps: 2 is not a budget in (0, 1]"),
        ("attacks/pgd/eps", [0.1, 0.1], "attacks.pgd: two cells of the name 'pgd_eps25p5'"),
        ("attacks/pgd/eps_step", [0.1, 0.2, 0.3], "attacks.pgd.eps_step: 3 values for 1 of eps"),
        ("controls/white_box", ["fgsm"], "controls.white_box: unknown attack 'fgsm'; choose one of: pgd, deepfool"),
        ("evaluation/images", 33, "evaluation.images: 33, but the task 'uci_digits' has 32 to attack"),
        ("statistics/confidence", 95, "statistics.confidence: input should be less than 1, got 95"),
        (
            "surrogates",
            ["merged"],
            "surrogates.merged: give one of 'backbone' (another architecture), 'members' (an ensemble) and 'task' "
            "(a bait); without any, choose one of: pretrained, finetuned, multitask",
        ),
        ("gallery/attack", "pgd", "gallery.attack: unknown 'pgd'; choose one of: pgd_eps8, deepfool"),
        ("explanations/attack", "pgd", "explanations.attack: unknown 'pgd'; choose one of: pgd_eps8, deepfool"),
        (
            "surrogates",
            {"pretrained": {"attacks": ["deepfool"]}},
            "explanations.attack: 'pgd_eps8' is crafted on no surrogate",
        ),
        ("explanations/images", 33, "explanations.images: 33, but 32 are attacked (evaluation.images)"),
        ("explanations/dose", [0, 1, 0.5], "explanations: dose: [0.0, 1.0, 0.5] does not rise from value to value"),
        ("explanations/path/vector", "max", "explanations.path.vector: input should be 'sum' or 'mean', got 'max'"),
        (
            "explanations/plane/merged",
            "task_arithmetic_surgery",
            "explanations.plane.merged: unknown 'task_arithmetic_surgery'; choose one of: weight_averaging, task_ari",
        ),
        ("explanations/plane/size", 3, "unknown key 'explanations.plane.size'; choose one of: grid, merged"),
        ("data/splits", {"train": 5}, "data.splits: lacks the split val, adapt, test, attack"),
    ],
)
def test_what_is_refused_and_how(tmp_path: Path, content: dict[str, Any], key: str, value: Any, words: str) -> None:
    assert words in refused(tmp_path, change(content, key, value))


def test_a_misspelt_key_is_named_before_the_one_it_leaves_missing(tmp_path: Path, content: dict[str, Any]) -> None:
    content["sed"] = content.pop("seed")
    assert "unknown key 'sed'; choose one of" in refused(tmp_path, content)


def test_files_that_are_no_study(tmp_path: Path) -> None:
    assert "not readable as YAML" in refused(tmp_path, "a: [")
    assert "expected a mapping of keys to values, found list" in refused(tmp_path, "- a")
    with pytest.raises(StudyError, match="no such file"):
        load(tmp_path / "absent.yaml")
    with pytest.raises(StudyError, match="cannot be read: Is a directory"):
        load(tmp_path)
    with pytest.raises(StudyError, match="the key 'seed' is given twice"):
        path = tmp_path / "twice.yaml"
        path.write_text("seed: 1\nseed: 2\n")
        load(path)


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("tasks/imagenet", {}, "tasks.imagenet: unknown kind of task 'imagenet'; choose one of: cifar10, cifar100"),
        ("tasks/latin", {"font": "x"}, "tasks.latin: unknown option 'font'"),
        ("merging/x", {"method": "stock"}, "merging.x.method: unknown merging method 'stock'; choose one of: "),
        ("merging/x", {"method": "task_arithmetic"}, "merging.x: method 'task_arithmetic' needs the option 'scale'"),
        ("merging/x", {"method": "average", "scale": 1}, "merging.x: unknown option 'scale'"),
        (
            "merging/x",
            {"base": "weight_averaging", "surgery": {"width": 3}},
            "merging.x.surgery: unknown option 'width'",
        ),
        ("attacks/x", {"method": "Hammer"}, "attacks.x: unknown attack method 'Hammer'; choose one of: "),
        ("attacks/x", {"method": "ProjectedGradientDescent", "steps": 3}, "attacks.x: unknown option of"),
        (
            "attacks/x",
            {"method": "ProjectedGradientDescent", "eps": 0.1, "max_iter": -3},
            "attacks.x: ProjectedGradientDescent refuses",
        ),
        ("attacks/x", {"method": "ProjectedGradientDescent"}, "attacks.x: eps must be a number in [0, 1]"),
        ("backbone/timm", "vit_minuscule", "backbone.timm: timm has no model 'vit_minuscule'"),
        ("backbone/options", {"depths": 3}, "backbone.options: timm refuses them for 'vit_tiny_patch16_224'"),
    ],
)
def test_what_the_registries_refuse(content: dict[str, Any], key: str, value: Any, words: str) -> None:
    with pytest.raises(StudyError) as error:
        check(Study.model_validate(change(content, key, value)))
    assert str(error.value).startswith(words)
    assert "\n" not in str(error.value)


def test_every_set_of_examples_is_made_once_and_faced_by_whom_it_concerns(content: dict[str, Any]) -> None:
    content["surrogates"] = ["pretrained", "multitask"]
    content["gallery"]["surrogate"] = "pretrained"
    study = Study.model_validate(content)
    assert study.surrogates_of("multitask", "pgd_eps8") == ["pretrained", "multitask"]
    assert study.surrogates_of("weight_averaging", "pgd_eps8") == ["pretrained", "multitask", "weight_averaging"]
    assert study.surrogates_of("weight_averaging", "deepfool") == ["pretrained", "multitask"]
    made = list(study.surrogate_cells())
    assert len(made) == len(set(made)) == 3 * (2 * 2 + 3)


def test_cells_zip_lists_with_the_budgets(content: dict[str, Any]) -> None:
    entry = {"method": "ProjectedGradientDescent", "eps": ["4/255", "8/255"], "eps_step": ["1/255", 0.5], "max_iter": 3}
    cells = Study.model_validate(change(content, "attacks/apgd", entry)).cells()
    assert cells["apgd_eps4"].options == {"eps": 4 / 255, "eps_step": 1 / 255, "max_iter": 3}
    assert cells["apgd_eps8"].options == {"eps": 8 / 255, "eps_step": 0.5, "max_iter": 3}
    assert cells["deepfool"].eps is None


def test_a_budget_in_another_norm_is_an_option_and_no_linf_budget(content: dict[str, Any]) -> None:
    entry = {"method": "ProjectedGradientDescent", "norm": 2, "eps": 1.5, "eps_step": 0.3, "max_iter": 3}
    cell = Study.model_validate(change(content, "attacks/pgd_l2", entry)).cells()["pgd_l2"]
    assert cell.eps is None
    assert cell.options["eps"] == 1.5


def test_budgets_in_another_norm_are_no_list(content: dict[str, Any]) -> None:
    """Outcomes tell cells apart by attack and L∞ budget: two in L2 would be pooled."""
    entry = {"method": "ProjectedGradientDescent", "norm": 2, "eps": [0.5, 1.0], "eps_step": 0.1, "max_iter": 3}
    with pytest.raises(
        ValueError, match=r"attacks\.far\.eps: only budgets in L∞ come as a list; with norm 2 give each"
    ):
        Study.model_validate(change(content, "attacks/far", entry))


def test_who_is_explained(content: dict[str, Any]) -> None:
    study = Study.model_validate(content)
    assert study.explained("weight_averaging") == ["pretrained", "finetuned"]
    assert study.explained_targets == study.targets
    assert "surgery_dose" in study.drawn_explanations

    content["surrogates"] = ["multitask"]
    content["gallery"]["surrogate"] = "multitask"
    del content["merging"]["task_arithmetic_surgery"]
    study = Study.model_validate(content)
    assert study.explained("multitask") == []
    assert study.explained_targets == ["weight_averaging", "task_arithmetic"]
    assert "surgery_dose" not in study.drawn_explanations
    made = {rule for rule, _ in study.artifacts().values()}
    assert "weight_plane" in made
    assert "surgery_dose" not in made


# Everything but images and joined tables.
COMPUTED = {"pretrain", "head", "finetune", "multitask", "merge", "surgery", "attack", "predict", "evaluate"} | {
    "features", "explain", "surgery_dose", "weight_path", "weight_plane"
}  # fmt: skip


def changed_artifacts(before: dict[str, Any], after: dict[str, Any]) -> set[str]:
    """Rules of the artifacts whose slice differs between two studies."""
    old, new = (Study.model_validate(content).artifacts() for content in (before, after))
    return {rule for path, (rule, part) in new.items() if old.get(path) != (rule, part)}


@pytest.mark.parametrize(
    ("key", "value", "rules"),
    [
        ("attacks/pgd/max_iter", 6, {"attack"}),
        ("tasks/mnist", {}, {"data", "head", "finetune", "multitask", "merge", "attack"}),
        ("merging/task_arithmetic/scale", [0.3], {"merge"}),
        ("merging/task_arithmetic_surgery/surgery/rank", 4, {"surgery"}),
        ("finetune/steps", 61, {"finetune"}),
        ("multitask/steps", 61, {"multitask"}),
        ("head/shots", 3, {"head"}),
        ("pretrain/steps", 201, {"pretrain"}),
        ("pretrain/corpus/per_character", 11, {"corpus"}),
        ("tasks/latin", {"splits": {"train": 200}}, {"data"}),
        ("explanations/images", 15, {"explain", "surgery_dose", "weight_path", "weight_plane"}),
        ("explanations/boundary/steps", 5, {"explain"}),
        ("explanations/dose", [0, 1], {"surgery_dose"}),
        ("explanations/path/vector", "sum", {"weight_path"}),
        ("explanations/plane/merged", "weight_averaging", {"weight_plane"}),
        ("statistics/bootstrap", 100, set()),
        ("hardware/device", "cpu", set()),
        ("hardware/precision/train", "bfloat16", {"pretrain", "finetune", "multitask"}),
        ("hardware/precision/evaluate", "bfloat16", {"predict", "evaluate"}),
        ("hardware/precision/craft", "bfloat16", {"attack"}),
        ("hardware/deterministic", False, COMPUTED),
        ("labels", {"pgd": "PGD"}, set()),
    ],
)
def test_an_edit_touches_its_own_artifacts_alone(
    content: dict[str, Any], key: str, value: Any, rules: set[str]
) -> None:
    assert changed_artifacts(content, change(content, key, value)) == rules


@settings(max_examples=60, deadline=None)
@given(
    key=st.sampled_from(
        ["seed", "study", "tasks", "data", "backbone", "finetune", "attacks", "merging", "surrogates", "labels", "new"]
    ),
    value=st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
        max_leaves=8,
    ),
)
def test_any_value_anywhere_is_accepted_or_refused_in_one_sentence(
    tmp_path_factory: pytest.TempPathFactory, key: str, value: Any
) -> None:
    content = yaml.safe_load((ROOT / "studies/smoke.yaml").read_text())
    path = tmp_path_factory.mktemp("fuzz") / "study.yaml"
    path.write_text(yaml.safe_dump({**content, key: value}))
    try:
        load(path)
    except StudyError as error:
        assert str(error).startswith(str(path))
        assert "\n" not in str(error)


HUB = {"hub": f"timm/clip@{'a' * 40}", "file": "model.safetensors", "sha256": "b" * 64}


TINY = {"timm": "vit_tiny_patch16_224", "mean": [0.5], "std": [0.5], "pretrained": "recipe"}


def published(content: dict[str, Any]) -> dict[str, Any]:
    """The smoke study with a published encoder."""
    for key, value in {
        "backbone/pretrained": HUB,
        "pretrain": None,
        "finetune/anchor": 0,
        "multitask/anchor": 0,
    }.items():
        content = change(content, key, value)
    return content


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        (
            "backbone/pretrained",
            "hub",
            "backbone.pretrained: expected 'recipe', {hub, file, sha256} or {file}, got 'hub'",
        ),
        ("backbone/pretrained", {**HUB, "revision": "main"}, "backbone.pretrained: expected {hub: owner/name@revision"),
        ("backbone/pretrained", {"hub": HUB["hub"], "file": "x.safetensors"}, "expected {hub: owner/name@revision"),
        (
            "backbone/pretrained",
            {**HUB, "hub": "timm/clip@main"},
            "'timm/clip@main' is not owner/name@revision with the",
        ),
        ("backbone/pretrained", {**HUB, "file": "model.bin"}, "'model.bin' is not a .safetensors file; nothing else"),
        ("backbone/pretrained", {**HUB, "sha256": "abc"}, "sha256: expected 64 digits"),
        ("backbone/pretrained", "recipe", "pretrain: goes with backbone.pretrained: recipe"),
        ("finetune/anchor", 1, "finetune.anchor: 1, but without 'pretrain' there is no corpus: give 0"),
        ("tasks/latin", {"finetuned": {"hub": "x"}}, "tasks.latin.finetuned: expected {hub: owner/name@revision"),
        ("head", {"kind": "zero-shot"}, "head: kind 'zero-shot' needs open_clip"),
        (
            "surrogates",
            {"tiny": {"backbone": TINY}},
            "surrogates.tiny.backbone.pretrained: recipe, but the study has no",
        ),
        ("head", {"kind": "few-shot", "shots": 4}, "head: kind 'few-shot' needs scale"),
        ("head", {"kind": "probe", "shots": 4}, "head: kind 'probe' needs penalty"),
        ("head", {"kind": "zero-shot", "open_clip": "ViT-B-32", "shots": 4}, "kind 'zero-shot' has no option 'shots'"),
    ],
)
def test_what_published_weights_must_say(
    tmp_path: Path, content: dict[str, Any], key: str, value: Any, words: str
) -> None:
    assert words in refused(tmp_path, change(published(content), key, value))


def test_a_pretraining_recipe_needs_to_be_there(tmp_path: Path, content: dict[str, Any]) -> None:
    assert "pretrain: goes with backbone.pretrained: recipe" in refused(tmp_path, change(content, "pretrain", None))
    assert "unknown key 'pretrain.epochs'; choose one of: batch" in refused(
        tmp_path, change(content, "pretrain/epochs", 3)
    )


def test_published_models_take_the_place_of_trained_ones(content: dict[str, Any]) -> None:
    tower = {"file": "latin.safetensors"}
    study = Study.model_validate(change(published(content), "tasks/latin", {"finetuned": tower}))
    made = {path.removeprefix("results/smoke/"): found for path, found in study.artifacts().items()}
    assert "data/corpus.safetensors" not in made
    assert made["models/pretrained.safetensors"][0] == "published"
    assert made["models/pretrained.safetensors"][1]["weights"] == HUB
    assert made["models/finetuned/latin.safetensors"] == ("published", {"task": "latin", "weights": tower})
    assert made["models/finetuned/texture.safetensors"][0] == "finetune"
    assert "finetuned" not in study.data_slice("latin")["options"]


def test_what_published_models_do_not_go_with(tmp_path: Path, content: dict[str, Any]) -> None:
    zero_shot = {"kind": "zero-shot", "open_clip": "ViT-B-32", "weights": HUB}
    other = change(change(content, "head", zero_shot), "surrogates", {"tiny": {"backbone": TINY}, "finetuned": {}})
    assert "surrogates.tiny.backbone: has no text tower for a zero-shot head" in refused(tmp_path, other)
    several = change(change(published(content), "seeds", [0, 1]), "tasks/latin", {"finetuned": HUB})
    assert "tasks.latin.finetuned: there is one published expert, and 'seeds'" in refused(tmp_path, several)


def test_a_zero_shot_head_depends_on_the_texts_and_the_weights(content: dict[str, Any]) -> None:
    study = Study.model_validate(change(published(content), "head", {"kind": "zero-shot", "open_clip": "ViT-B-32"}))
    assert study.head_slice("latin") == {
        "task": "latin",
        "kind": "latin",
        "hardware": {"deterministic": True},
        "head": {"kind": "zero-shot", "open_clip": "ViT-B-32", "weights": HUB},
    }
    own = change(
        published(content), "head", {"kind": "zero-shot", "open_clip": "x", "weights": {"file": "a.safetensors"}}
    )
    assert Study.model_validate(own).head_slice("latin")["head"]["weights"] == {"file": "a.safetensors"}


def test_to_refuse_corrupt_images_changes_no_slice(content: dict[str, Any]) -> None:
    plain = Study.model_validate(content).data_slice("latin")
    refusing, skipping = (
        Study.model_validate(change(content, "tasks/latin", {"corrupt": policy})).data_slice("latin")
        for policy in ("refuse", "skip")
    )
    assert refusing == plain
    assert skipping == {**plain, "corrupt": "skip"}
