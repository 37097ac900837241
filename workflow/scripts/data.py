"""The images of one task, split."""

import numpy as np
import torch

from advmerge.artifacts import Stream, save_tensors
from advmerge.data import Pictures, make
from advmerge.data.corrupt import readable
from advmerge.errors import StudyError
from advmerge.script import arguments, progress, run


def streamed(images: Pictures, name: str) -> Stream:
    """Images that are decoded one by one as they are written."""
    return Stream(images.shape, (torch.from_numpy(np.array(image)) for image in progress(name)(images)))


def main() -> None:
    args = arguments("output")
    config = args.config
    try:
        data = make(config["kind"], config["sizes"], config["seed"], config["shape"], config["options"])
        skipped = {}
        if config.get("corrupt") == "skip":
            data, skipped = readable(data)
    except StudyError as error:
        raise StudyError(f"task '{config['task']}': {error}") from error
    for split, reasons in skipped.items():
        print(*(f"skipped of '{split}': {reason}" for reason in reasons), sep="\n")
    tensors = {}
    for split, images in data.images.items():
        present = set(data.labels[split].tolist())
        if split == "train" and (empty := [name for i, name in enumerate(data.classes) if i not in present]):
            raise StudyError(f"task '{config['task']}': no training image of the class '{empty[0]}'")
        tensors[f"{split}_images"] = (
            streamed(images, f"{config['task']} {split}") if isinstance(images, Pictures) else torch.from_numpy(images)
        )
        tensors[f"{split}_labels"] = torch.from_numpy(data.labels[split])
    metadata = {**args.provenance(), "classes": data.classes, **({"facts": {"skipped": skipped}} if skipped else {})}
    try:
        save_tensors(args["output"], tensors, metadata)
    except StudyError as error:
        raise StudyError(f"task '{config['task']}': {error}") from error


run(main)
