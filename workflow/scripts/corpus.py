"""The pretraining corpus of the embedded backbone."""

import torch

from advmerge.artifacts import save_tensors
from advmerge.data.corpus import corpus
from advmerge.script import arguments, run


def main() -> None:
    args = arguments("output")
    data = corpus(args.config["seed"], args.config["per_character"], args.config["per_quadrant"])
    tensors = {
        "train_images": torch.from_numpy(data.images["train"]),
        "train_labels": torch.from_numpy(data.labels["train"]),
    }
    save_tensors(args["output"], tensors, {**args.provenance(), "classes": data.classes})


run(main)
