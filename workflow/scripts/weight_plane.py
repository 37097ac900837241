"""Models on the plane through the pretrained encoder, a task's expert and a merged model, for every task."""

from itertools import product

import pandas as pd
from torch import nn

from advmerge import explanations as ex
from advmerge.artifacts import save_table
from advmerge.hardware import set_up
from advmerge.models import Model, Normalise, predict, state_of
from advmerge.script import arguments, progress, run, work


def main() -> None:
    args = arguments("pretrained", "merged", "finetuned*", "head*", "data*", "adversarial*", "output")
    config = args.config
    hardware = set_up(config["hardware"])
    batch = config["batch_size"]
    pretrained, merged = Model(args["pretrained"]), Model(args["merged"])
    encoder = pretrained.encoder().to(hardware.device)
    embed = nn.Sequential(Normalise.of(pretrained.backbone), encoder).to(hardware.device)
    rows = []
    for name, head in args["head"].items():
        task = ex.load_task(head, args["data"][name], ex.below(name, args["adversarial"]), config["images"])
        expert, own = Model(args["finetuned"][name]).state, state_of(merged.tensors, name)
        with work():
            encoder.load_state_dict(expert)
            goal = predict(embed, task.images, batch)
            points = list(product(config["grid"], repeat=2))
            for toward_expert, toward_merged in progress(f"weight plane {name}")(points):
                moves = [(toward_expert, expert), (toward_merged, own)]
                encoder.load_state_dict(ex.shifted(pretrained.state, moves))
                found = ex.outcome(task, ex.view(embed, task, batch), goal)
                place = {"toward_expert": toward_expert, "toward_merged": toward_merged, "task": name}
                rows += [{**place, **row} for row in found]
    save_table(args["output"], pd.DataFrame(rows), {**args.provenance(), **hardware.record()})


run(main)
