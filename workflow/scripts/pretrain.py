"""The pretrained encoder P, and what its features look like on its own corpus."""

import torch

from advmerge.artifacts import load_tensors, save_tensors
from advmerge.data.corpus import sampling_weights
from advmerge.hardware import set_up
from advmerge.models import Normalise, build_encoder
from advmerge.script import arguments, progress, run, work
from advmerge.seeding import derive, torch_generator
from advmerge.training import pretrain


def main() -> None:
    args = arguments("corpus", "output")
    config, recipe = args.config, args.config["recipe"]
    hardware = set_up(config["hardware"])
    tensors, metadata = load_tensors(args["corpus"])
    labels = tensors["train_labels"]
    weights = sampling_weights(labels.numpy(), metadata["classes"], recipe["photo_share"])
    torch.manual_seed(derive(config["seed"], "pretrain", "initial weights"))
    encoder = build_encoder(config["backbone"]).to(hardware.device)
    normalise = Normalise.of(config["backbone"]).to(hardware.device)
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
            hardware.dtype,
        )
    state = {name: tensor.cpu() for name, tensor in encoder.state_dict().items()}
    made = {**args.provenance(), **hardware.record()}
    save_tensors(args["output"], state, {**made, "backbone": config["backbone"], "facts": facts})


run(main)
