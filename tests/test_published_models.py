"""Published weights and zero-shot heads, held against open_clip's and transformers' own towers."""

from __future__ import annotations

import hashlib
import http.server
import json
import threading
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
import yaml
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F

from advmerge import zeroshot
from advmerge.cli import main
from advmerge.data import PROMPTS, SOURCES
from advmerge.errors import StudyError
from advmerge.models import Classifier, Head, Normalise, build_encoder
from advmerge.published import load_published, to_timm, weights_file
from advmerge.study.sections import weights

WIDTH, SIZE, FEATURES = 128, 32, 24
CONFIG = {
    "embed_dim": FEATURES,
    "quick_gelu": True,
    "vision_cfg": {"image_size": SIZE, "layers": 2, "width": WIDTH, "patch_size": 8, "head_width": 64},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
}
BACKBONE: dict[str, Any] = {
    "timm": "vit_base_patch32_clip_quickgelu_224",
    "options": {
        "img_size": SIZE,
        "patch_size": 8,
        "embed_dim": WIDTH,
        "depth": 2,
        "num_heads": 2,
        "num_classes": FEATURES,
    },
    "mean": [0.48145466, 0.4578275, 0.40821073],
    "std": [0.26862954, 0.26130258, 0.27577711],
}


def randomise(model: nn.Module) -> nn.Module:
    """Nothing left at zero or one: a tensor in the wrong place shows."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim:
                parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    return model.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("clip") / "tiny-clip-for-tests.json"
    path.write_text(json.dumps(CONFIG))
    return str(path)


@pytest.fixture(scope="module")
def clip(config: str) -> Any:
    return randomise(open_clip.create_model(zeroshot.configured(config), pretrained=None, load_weights=False))


@pytest.fixture(scope="module")
def file(clip: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "open_clip_model.safetensors"
    save_file(clip.state_dict(), path)
    return path


def images(count: int = 5) -> torch.Tensor:
    return torch.rand(count, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))


def test_an_open_clip_tower_answers_the_same_in_timm(clip: Any, file: Path) -> None:
    encoder = build_encoder(BACKBONE)
    encoder.load_state_dict(load_published({"file": str(file)}, encoder, "backbone.pretrained"))
    with torch.no_grad():
        ours, theirs = encoder.eval()(images()), clip.encode_image(images())
    assert ours.shape == (5, FEATURES)
    assert torch.allclose(ours, theirs, atol=1e-5)


def test_the_wrong_activation_is_another_function(clip: Any, file: Path) -> None:
    """OpenAI's weights need timm's quickgelu models: the plain ones load them too, and answer otherwise."""
    encoder = build_encoder({**BACKBONE, "timm": "vit_base_patch32_clip_224"})
    encoder.load_state_dict(load_published({"file": str(file)}, encoder, "backbone.pretrained"))
    with torch.no_grad():
        assert not torch.allclose(encoder.eval()(images()), clip.encode_image(images()), atol=1e-2)


@pytest.mark.parametrize("projected", [True, False])
def test_a_transformers_tower_answers_the_same_in_timm(projected: bool) -> None:
    transformers = pytest.importorskip("transformers")
    settings = transformers.CLIPVisionConfig(
        hidden_size=WIDTH,
        intermediate_size=4 * WIDTH,
        projection_dim=FEATURES,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=SIZE,
        patch_size=8,
    )
    kind = transformers.CLIPVisionModelWithProjection if projected else transformers.CLIPVisionModel
    tower = randomise(kind(settings))
    state = tower.state_dict()
    if not any(name.startswith("vision_model.") for name in state):  # version 5 has no prefix, the files have
        state = {f"vision_model.{name}": tensor for name, tensor in state.items()}
    encoder = build_encoder(BACKBONE)
    base = randomise(build_encoder(BACKBONE)).state_dict()
    encoder.load_state_dict(to_timm(state, encoder, base))
    with torch.no_grad():
        ours = encoder.eval()(images())
        theirs = tower(pixel_values=images())
        expected = theirs.image_embeds if projected else F.linear(theirs.pooler_output, base["head.weight"])
    assert torch.allclose(ours, expected if projected else expected + base["head.bias"], atol=1e-5)


def test_tensors_under_timms_names_are_taken_as_they_are(tmp_path: Path) -> None:
    encoder = randomise(build_encoder(BACKBONE))
    save_file({name: tensor.half() for name, tensor in encoder.state_dict().items()}, tmp_path / "x.safetensors")
    found = load_published({"file": str(tmp_path / "x.safetensors")}, build_encoder(BACKBONE), "here")
    assert all(torch.equal(found[name], tensor.half().float()) for name, tensor in encoder.state_dict().items())


def test_what_does_not_fit_is_named(file: Path, clip: Any) -> None:
    options = BACKBONE["options"]
    source = {"file": str(file)}
    for change, said in [
        ({"num_classes": 0}, f"projection to {FEATURES} features; set backbone.options.num_classes: {FEATURES}"),
        ({"depth": 3}, r"they lack 'blocks.2.attn.proj.bias' and 11 other tensors"),
        ({"depth": 1}, r"they hold 'blocks.1.attn.proj.bias' and 11 other tensors"),
        ({"num_classes": 7}, r"'head.weight' is 24 × 128 and not 7 × 128"),
    ]:
        encoder = build_encoder({**BACKBONE, "options": {**options, **change}})
        with pytest.raises(StudyError, match=f"backbone.pretrained: .*{said}"):
            load_published(source, encoder, "backbone.pretrained")


def test_a_file_is_checked_before_it_is_read(file: Path, tmp_path: Path) -> None:
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    assert weights_file({"file": str(file), "sha256": digest}, "here") == file
    with pytest.raises(StudyError, match=rf"here: .*has the SHA-256 {digest}, and {'0' * 64} is expected"):
        weights_file({"file": str(file), "sha256": "0" * 64}, "here")
    with pytest.raises(StudyError, match=r"here: .*: no such file"):
        weights_file({"file": str(tmp_path / "none.safetensors")}, "here")


def cached(tmp_path: Path, file: Path, revision: str) -> None:
    """The hub's cache as its client leaves it: a snapshot folder a commit, its files links to blobs."""
    repository = tmp_path / "hub/models--someone--clip"
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    (repository / "blobs").mkdir(parents=True)
    (repository / "blobs" / digest).write_bytes(file.read_bytes())
    (repository / "snapshots" / revision).mkdir(parents=True)
    (repository / "snapshots" / revision / "open_clip_model.safetensors").symlink_to(f"../../blobs/{digest}")


def test_the_hubs_cache_serves_offline(tmp_path: Path, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    revision = "0123456789" * 4
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    source = {"hub": f"someone/clip@{revision}", "file": "open_clip_model.safetensors", "sha256": digest}
    cached(tmp_path, file, revision)
    assert weights_file(source, "here").read_bytes() == file.read_bytes()
    with pytest.raises(StudyError, match=r"here: .*has the SHA-256 .* delete .* to download it again"):
        weights_file({**source, "sha256": "0" * 64}, "here")
    address = (
        rf"/someone/clip/resolve/{'9' * 40}/\S+ cannot be had .*; where there is no network, download it elsewhere"
    )
    with pytest.raises(StudyError, match=address):
        weights_file({**source, "hub": f"someone/clip@{'9' * 40}"}, "here")


class Hub(http.server.BaseHTTPRequestHandler):
    """A hub that has one file, of one commit, which is also its branch `main`."""

    content = b""

    def do_HEAD(self) -> None:
        found = self.path in (f"/someone/clip/resolve/{name}/a/model.safetensors" for name in ("main", COMMIT))
        self.send_response(200 if found else 404)
        self.send_header("ETag", f'"{hashlib.sha256(self.content).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Content-Length", str(len(self.content)))
        self.end_headers()

    def do_GET(self) -> None:
        self.do_HEAD()
        self.wfile.write(self.content)

    def log_message(self, *_: object) -> None:
        pass


COMMIT = "0123456789" * 4


def test_a_pin_is_what_a_study_takes(
    tmp_path: Path, file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(Hub, "content", file.read_bytes())
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        monkeypatch.setattr(constants, "ENDPOINT", address)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        assert main(["pin", "hub:someone/clip", "a/model.safetensors"]) == 0
        printed = capsys.readouterr().out
        source = yaml.safe_load(printed)
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        assert source == {"hub": f"someone/clip@{COMMIT}", "file": "a/model.safetensors", "sha256": digest}
        assert f"# {file.stat().st_size / 1e6:,.1f} MB" in printed
        assert weights(source) == source
        assert weights_file(source, "here").read_bytes() == file.read_bytes()
        for hub, name, said in (
            ("hub:someone/clip", "b.safetensors", "b.safetensors cannot be had"),
            ("hub:someone", "x", "x: is not a .safetensors file"),
            ("hub:so/me/one", "b.safetensors", "b.safetensors cannot be had"),
        ):
            assert main(["pin", hub, name]) == 1
            assert said in capsys.readouterr().err
        server.shutdown()


def test_a_zero_shot_classifier_gives_open_clips_logits(clip: Any, config: str, file: Path) -> None:
    """One template: the logits are those of open_clip's own image-text similarity."""
    classes = ["Forest", "SeaLake", "Highway"]
    texts = [[group[0]] for group in zeroshot.prompts("eurosat", classes)]
    assert texts == [
        ["a centered satellite photo of forest."],
        ["a centered satellite photo of lake or sea."],
        ["a centered satellite photo of highway or road."],
    ]
    model = zeroshot.load_clip(config, clip.state_dict())
    head = Head(zeroshot.zero_shot_head(model, config, texts))
    encoder = build_encoder(BACKBONE)
    encoder.load_state_dict(load_published({"file": str(file)}, encoder, "backbone.pretrained"))
    normalise = Normalise(BACKBONE["mean"], BACKBONE["std"])
    tokens = open_clip.get_tokenizer(zeroshot.configured(config))([text for (text,) in texts])
    with torch.no_grad():
        ours = Classifier(encoder, head, normalise).eval()(images())
        theirs, _ = clip.get_logits(normalise(images()), tokens)
    assert torch.allclose(ours, theirs, atol=1e-4)
    assert (ours.argmax(1) == theirs.argmax(1)).all()


def test_several_templates_are_averaged_on_the_sphere(clip: Any, config: str) -> None:
    texts = zeroshot.prompts("gtsrb", ["00014", "00000"])
    assert texts[0] == [f'a {how} photo of a "stop" traffic sign.' for how in ("zoomed in", "centered", "close up")]
    weight = zeroshot.zero_shot_head(clip, config, texts)["weight"]
    tokenise = open_clip.get_tokenizer(zeroshot.configured(config))
    for row, group in zip(weight, texts, strict=True):
        with torch.no_grad():
            each = [clip.encode_text(tokenise([text]))[0] for text in group]
        mean = sum(one / one.norm() for one in each)
        assert torch.allclose(row, clip.logit_scale.exp() * mean / mean.norm(), atol=1e-4)
        assert row.norm() == pytest.approx(float(clip.logit_scale.exp()), rel=1e-5)


def test_a_source_without_prompts_gets_the_plain_one() -> None:
    assert zeroshot.prompts("image_folder", ["golden_eagle"]) == [["a photo of a golden eagle."]]


@pytest.mark.parametrize("path", sorted(PROMPTS.glob("*.json")), ids=lambda path: path.stem)
def test_every_prompt_file_is_of_a_source_and_complete(path: Path) -> None:
    assert path.stem in SOURCES
    content = json.loads(path.read_text())
    assert set(content) == {"source", "templates", "words"}
    assert content["source"].startswith("OpenAI CLIP, ")
    assert content["templates"]
    assert all(template.count("{}") == 1 for template in content["templates"])


def test_weights_and_names_that_are_not_clips(clip: Any, config: str) -> None:
    with pytest.raises(StudyError, match=r"head.open_clip: unknown model of open_clip 'ViT-B-31'; choose one of: "):
        zeroshot.check("ViT-B-31", 512)
    with pytest.raises(StudyError, match=r"has 512 features and the backbone 768; .*num_classes: 512"):
        zeroshot.check("ViT-B-32-quickgelu", 768)
    zeroshot.check("ViT-B-32-quickgelu", 512)
    tower = {name: tensor for name, tensor in clip.state_dict().items() if name.startswith("visual.")}
    with pytest.raises(StudyError, match=r"are not those of .* with both its towers: .*Missing key"):
        zeroshot.load_clip(config, tower)
