"""What one model says of every clean image of every task; the fine-tuned model is each task's own expert."""

import pandas as pd

from advmerge.artifacts import load_tensors, save_table
from advmerge.hardware import set_up
from advmerge.models import answering
from advmerge.script import arguments, run, work
from advmerge.transfer import answers

SPLITS = ("test", "attack")


def of(task: str, paths: dict[str, str]) -> dict[str, str]:
    """Member → path, out of task/member → path."""
    return {name.removeprefix(f"{task}/"): path for name, path in paths.items() if name.startswith(f"{task}/")}


def main() -> None:
    args = arguments("model*", "head*", "data*", "output")
    config = args.config
    hardware = set_up(config["hardware"])
    parts = []
    for task, path in args["data"].items():
        data, _ = load_tensors(path)
        models, heads = of(task, args["model"]), of(task, args["head"])
        model = answering(task, models, heads, config["fuse"], hardware.dtype).to(hardware.device)
        for split in SPLITS:
            labels = data[f"{split}_labels"]
            with work():
                prediction, margin = answers(model, data[f"{split}_images"], labels, config["batch_size"])
            columns = {
                "task": task,
                "split": split,
                "image": range(len(labels)),
                "label": labels.numpy().astype("int16"),
                "prediction": prediction.numpy().astype("int16"),
                "margin": margin.numpy(),
            }
            parts.append(pd.DataFrame(columns))
    save_table(args["output"], pd.concat(parts, ignore_index=True), {**args.provenance(), **hardware.record()})


run(main)
