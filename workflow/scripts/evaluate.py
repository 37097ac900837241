"""The outcomes of one attack on one target, over all tasks and surrogates: pure inference."""

import pandas as pd

from advmerge.artifacts import load_table, load_tensors, save_table
from advmerge.hardware import set_up
from advmerge.models import Model, load_head
from advmerge.script import arguments, run, work
from advmerge.transfer import answers, outcome_rows


def main() -> None:
    args = arguments("model", "clean", "head*", "adversarial*", "output")
    config = args.config
    hardware = set_up(config["hardware"])
    target = Model(args["model"])
    clean = load_table(args["clean"]).query("split == 'attack'").set_index("image")
    classifiers = {
        task: target.classifier(task, load_head(path), hardware.dtype).to(hardware.device)
        for task, path in args["head"].items()
    }
    parts = []
    for key, path in args["adversarial"].items():
        task, surrogate = key.split("/")
        crafted, _ = load_tensors(path)
        with work():
            if surrogate == config["target"]:  # it has been asked, in the precision that the examples were crafted in
                said = crafted["prediction"], crafted["margin"]
            else:
                said = answers(classifiers[task], crafted["images"], crafted["label"], config["batch_size"])
        names = {
            "task": task,
            "surrogate": surrogate,
            "in_merge": surrogate in config["in_merge"],
            **{name: config[name] for name in ("attack", "eps", "target", "seed")},
        }
        own = clean[clean["task"] == task]
        parts.append(outcome_rows(names, crafted, own, said))
    save_table(args["output"], pd.concat(parts, ignore_index=True), {**args.provenance(), **hardware.record()})


run(main)
