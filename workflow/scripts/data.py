"""The images of one task, split."""

import torch

from advmerge.artifacts import save_tensors
from advmerge.data import make
from advmerge.errors import StudyError
from advmerge.script import arguments, run


def main() -> None:
    args = arguments("output")
    config = args.config
    try:
        data = make(config["kind"], config["sizes"], config["seed"], config["shape"], config["options"])
    except StudyError as error:
        raise StudyError(f"task '{config['task']}': {error}") from error
    tensors = {}
    for split, images in data.images.items():
        present = set(data.labels[split].tolist())
        if split == "train" and (empty := [name for i, name in enumerate(data.classes) if i not in present]):
            raise StudyError(f"task '{config['task']}': no training image of the class '{empty[0]}'")
        tensors[f"{split}_images"] = torch.from_numpy(images)
        tensors[f"{split}_labels"] = torch.from_numpy(data.labels[split])
    save_tensors(args["output"], tensors, {**args.provenance(), "classes": data.classes})


run(main)
