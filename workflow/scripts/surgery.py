"""A merged encoder with a representation surgery module a task."""

from torch import nn

from advmerge.artifacts import load_tensors, save_tensors
from advmerge.merging.surgery import operate
from advmerge.models import SURGERY, Model, Normalise, device, predict
from advmerge.script import arguments, progress, run, work


def main() -> None:
    args = arguments("base", "finetuned*", "data*", "output")
    config = args.config
    base = Model(args["base"])
    place = device()
    normalise = Normalise(base.backbone["mean"], base.backbone["std"])
    tensors, facts = dict(base.tensors), {}
    with work():
        for task, path in args["finetuned"].items():
            images = load_tensors(args["data"][task])[0]["adapt_images"]
            merged = nn.Sequential(normalise, base.encoder(task)).to(place)
            expert = nn.Sequential(normalise, Model(path).encoder()).to(place)
            features = predict(merged, images, 256), predict(expert, images, 256)
            report = progress(f"surgery {config['name']} {task}")
            module, facts[task] = operate(*features, config["seed"], task, report, **config["options"])
            tensors |= {f"{SURGERY}{task}.{name}": tensor.data for name, tensor in module.named_parameters()}
    save_tensors(args["output"], tensors, {**args.provenance(), "backbone": base.backbone, "facts": facts})


run(main)
