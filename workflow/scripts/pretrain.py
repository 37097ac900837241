"""The pretrained encoder P, and what its features look like on its own corpus."""

import torch

from advmerge.artifacts import load_tensors, save_tensors
from advmerge.data.corpus import sampling_weights
from advmerge.models import Normalise, build_encoder, device
from advmerge.script import arguments, progress, run, work
from advmerge.seeding import derive, torch_generator
from advmerge.training import pretrain


def main() -> None:
    args = arguments("corpus", "output")
    config, recipe = args.config, args.config["recipe"]
    tensors, metadata = load_tensors(args["corpus"])
    labels = tensors["train_labels"]
    weights = sampling_weights(labels.numpy(), metadata["classes"], recipe["photo_share"])
    torch.manual_seed(derive(config["seed"], "pretrain", "initial weights"))
    place = device()
    encoder = build_encoder(config["backbone"]).to(place)
    normalise = Normalise.of(config["backbone"]).to(place)
    with work():
        facts = pretrain(
            encoder,
            normalise,
            tensors["train_images"],
            labels,
            torch.from_numpy(weights),
            recipe,
            torch_generator(config["seed"], "pretrain"),
            progress("pretrain"),
        )
    state = {name: tensor.cpu() for name, tensor in encoder.state_dict().items()}
    save_tensors(args["output"], state, {**args.provenance(), "backbone": config["backbone"], "facts": facts})


run(main)
