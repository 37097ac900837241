"""What one target has in common with the surrogates, task by task: gradients, representations, boundaries."""

import pandas as pd

from advmerge import explanations as ex
from advmerge.artifacts import metadata, save_table
from advmerge.hardware import set_up
from advmerge.models import answering
from advmerge.script import arguments, run, work

NAMES = ["task", "surrogate", "target", "measure", "block"]


def main() -> None:
    args = arguments("model*", "head*", "data*", "adversarial*", "output")
    config = args.config
    hardware = set_up(config["hardware"])
    batch, line = config["batch_size"], config["boundary"]
    parts = []
    for name, data in args["data"].items():
        files, heads = (ex.below(name, args[kind]) for kind in ("model", "head"))
        models, backbones = {}, {}
        for who, fuse in config["fuse"].items():
            members = ex.below(who, files)
            models[who] = answering(name, members, ex.below(who, heads), fuse).to(hardware.device)
            backbones[who] = [metadata(path)["backbone"] for path in members.values()]
        target = config["target"]
        head = heads[f"{target}/{target}"]
        task = ex.load_task(head, data, ex.below(name, args["adversarial"]), config["images"])
        with work():
            probes = {who: ex.probe(model, task.images, task.labels, batch) for who, model in models.items()}
            for surrogate in task.examples:
                alike = backbones[surrogate] == backbones[target]
                found = ex.compare(probes[surrogate], probes[target], probes["finetuned"], alike)
                found |= ex.boundary(models[target], probes[target], task, surrogate, **line, batch_size=batch)
                parts += [
                    pd.DataFrame({"task": name, "surrogate": surrogate, "measure": measure, "block": block,
                                  "image": image, "value": values})
                    for (measure, block), (image, values) in found.items()
                ]  # fmt: skip
    table = pd.concat(parts, ignore_index=True).assign(target=config["target"])
    table = table.astype({**dict.fromkeys(NAMES, "category"), "image": "Int32"})
    save_table(args["output"], table, {**args.provenance(), **hardware.record()})


run(main)
