"""A task's frozen head: from the pretrained encoder and labelled images, or from the names of the classes."""

import torch

from advmerge.artifacts import load_tensors, save_tensors
from advmerge.errors import StudyError
from advmerge.hardware import set_up
from advmerge.models import Model, Normalise
from advmerge.published import weights_file
from advmerge.script import Arguments, arguments, run, work
from advmerge.training import anchor_images, feature_statistics, few_shot_head, probe_head
from advmerge.zeroshot import load_clip, prompts, zero_shot_head


def from_images(args: Arguments, data: dict, classes: list, place: torch.device) -> dict:
    """From ``head.shots`` images a class, or all, standardised by what features are like over the corpus, or over the task's."""
    head = args.config["head"]
    pretrained = Model(args["pretrained"])
    encoder = pretrained.encoder().to(place)
    normalise = Normalise.of(pretrained.backbone).to(place)
    images, labels = data["train_images"], data["train_labels"]
    if args["features"]:
        measured, _ = load_tensors(args["features"])
        statistics = measured["mean"], measured["std"]
    else:
        statistics = feature_statistics(encoder, normalise, anchor_images(images))
    if head["kind"] == "probe":
        return probe_head(encoder, normalise, images, labels, statistics, head["penalty"])
    try:
        return few_shot_head(encoder, normalise, images, labels, len(classes), statistics, head["shots"], head["scale"])
    except StudyError as error:
        raise StudyError(f"task '{args.config['task']}': {error}") from error


def zero_shot(args: Arguments, classes: list, place: torch.device) -> dict:
    """From the texts that CLIP's text tower gets for each class."""
    head = args.config["head"]
    tensors, _ = load_tensors(weights_file(head["weights"], "head.weights"))
    model = load_clip(head["open_clip"], tensors).to(place)
    return zero_shot_head(model, head["open_clip"], prompts(args.config["kind"], classes))


def main() -> None:
    args = arguments("pretrained", "features?", "data", "output")
    hardware = set_up(args.config["hardware"])
    data, metadata = load_tensors(args["data"])
    classes = metadata["classes"]
    with work():
        tensors = (
            zero_shot(args, classes, hardware.device)
            if args.config["head"]["kind"] == "zero-shot"
            else from_images(args, data, classes, hardware.device)
        )
    save_tensors(args["output"], tensors, {**args.provenance(), **hardware.record(), "classes": classes})


run(main)
