"""What a pretrained encoder's features are like over the corpus: every head made with it standardises with them."""

from advmerge.artifacts import load_tensors, save_tensors
from advmerge.hardware import set_up
from advmerge.models import Model, Normalise
from advmerge.script import arguments, run, work
from advmerge.training import anchor_images, feature_statistics


def main() -> None:
    args = arguments("pretrained", "corpus", "output")
    hardware = set_up(args.config["hardware"])
    pretrained = Model(args["pretrained"])
    corpus, _ = load_tensors(args["corpus"])
    encoder = pretrained.encoder().to(hardware.device)
    normalise = Normalise.of(pretrained.backbone).to(hardware.device)
    with work():
        mean, std = feature_statistics(encoder, normalise, anchor_images(corpus["train_images"]))
    save_tensors(args["output"], {"mean": mean, "std": std}, {**args.provenance(), **hardware.record()})


run(main)
