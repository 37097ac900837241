"""A merged model with surgery while the surgery's correction is turned up, from none to all of it."""

import pandas as pd
from torch import nn

from advmerge import explanations as ex
from advmerge.artifacts import save_table
from advmerge.hardware import set_up
from advmerge.models import Model, Normalise, predict
from advmerge.script import arguments, run, work


def main() -> None:
    args = arguments("model", "finetuned*", "head*", "data*", "adversarial*", "output")
    config = args.config
    hardware = set_up(config["hardware"])
    model = Model(args["model"])
    normalise = Normalise.of(model.backbone)
    rows = []
    for name, head in args["head"].items():
        task = ex.load_task(head, args["data"][name], ex.below(name, args["adversarial"]), config["images"])
        merged = nn.Sequential(normalise, model.encoder(name)).to(hardware.device)
        expert = nn.Sequential(normalise, Model(args["finetuned"][name]).encoder()).to(hardware.device)
        with work():
            seen = ex.view(merged, task, config["batch_size"])
            goal = predict(expert, task.images, config["batch_size"])
            for dose in config["dose"]:
                surgery = ex.dosed(model.surgery[name], dose)
                treated = ex.View(surgery(seen.clean), {key: surgery(part) for key, part in seen.attacked.items()})
                found = ex.outcome(task, treated, goal)
                rows += [{"target": config["target"], "dose": dose, "task": name, **row} for row in found]
    save_table(args["output"], pd.DataFrame(rows), {**args.provenance(), **hardware.record()})


run(main)
