"""Models along θ_0 + λτ, τ the sum or the mean of all task vectors: every task, clean and attacked."""

import pandas as pd
from torch import nn

from advmerge import explanations as ex
from advmerge.artifacts import save_table
from advmerge.hardware import set_up
from advmerge.models import Model, Normalise, predict
from advmerge.script import arguments, progress, run, work


def main() -> None:
    args = arguments("pretrained", "finetuned*", "head*", "data*", "adversarial*", "output")
    config = args.config
    hardware = set_up(config["hardware"])
    batch = config["batch_size"]
    pretrained = Model(args["pretrained"])
    experts = {name: Model(path).state for name, path in args["finetuned"].items()}
    share = 1 / len(experts) if config["vector"] == "mean" else 1
    encoder = pretrained.encoder().to(hardware.device)
    embed = nn.Sequential(Normalise.of(pretrained.backbone), encoder).to(hardware.device)
    tasks = {
        name: ex.load_task(head, args["data"][name], ex.below(name, args["adversarial"]), config["images"])
        for name, head in args["head"].items()
    }
    rows, goals = [], {}
    with work():
        for name, task in tasks.items():
            encoder.load_state_dict(experts[name])
            goals[name] = predict(embed, task.images, batch)
        for scale in progress("weight path")(config["scale"]):
            encoder.load_state_dict(ex.shifted(pretrained.state, [(scale * share, e) for e in experts.values()]))
            for name, task in tasks.items():
                found = ex.outcome(task, ex.view(embed, task, batch), goals[name])
                rows += [{"scale": scale, "task": name, **row} for row in found]
    save_table(args["output"], pd.DataFrame(rows), {**args.provenance(), **hardware.record()})


run(main)
