"""The outcomes of one attack on one target, over all tasks and surrogates: pure inference."""

import pandas as pd

from advmerge.artifacts import load_table, load_tensors, save_table
from advmerge.models import Model, device, load_head
from advmerge.script import arguments, run, work
from advmerge.transfer import answers, outcome_rows


def main() -> None:
    args = arguments("model", "clean", "head*", "adversarial*", "output")
    config = args.config
    target = Model(args["model"])
    clean = load_table(args["clean"]).query("split == 'attack'").set_index("image")
    classifiers = {task: target.classifier(task, load_head(path)).to(device()) for task, path in args["head"].items()}
    parts = []
    for key, path in args["adversarial"].items():
        task, surrogate = key.split("/")
        crafted, _ = load_tensors(path)
        with work():
            said = answers(classifiers[task], crafted["images"], crafted["label"], config["batch_size"])
        names = {
            "task": task,
            "surrogate": surrogate,
            "in_merge": surrogate in config["in_merge"],
            **{name: config[name] for name in ("attack", "eps", "target", "seed")},
        }
        own = clean[clean["task"] == task]
        parts.append(outcome_rows(names, crafted, own, said))
    save_table(args["output"], pd.concat(parts, ignore_index=True), args.provenance())


run(main)
