"""A merged encoder with representation surgery modules for each task."""

from advmerge.artifacts import load_tensors, save_tensors
from advmerge.hardware import set_up
from advmerge.merging.surgery import operate
from advmerge.models import SURGERY, Model, Normalise
from advmerge.script import arguments, progress, run, work


def main() -> None:
    args = arguments("base", "finetuned*", "data*", "output")
    config = args.config
    base = Model(args["base"])
    hardware = set_up(config["hardware"])
    place = hardware.device
    normalise = Normalise(base.backbone["mean"], base.backbone["std"]).to(place)
    tensors, facts = dict(base.tensors), {}
    with work():
        for task, path in args["finetuned"].items():
            images = load_tensors(args["data"][task])[0]["adapt_images"]
            merged, expert = base.encoder(task).to(place), Model(path).encoder().to(place)
            report = progress(f"surgery {config['name']} {task}")
            modules, facts[task] = operate(
                merged, expert, normalise, images, config["seed"], task, report, **config["options"]
            )
            for where, module in modules.items():
                tensors |= {f"{SURGERY}{task}.{where}{name}": t.data for name, t in module.named_parameters()}
    made = {**args.provenance(), **hardware.record()}
    save_tensors(args["output"], tensors, {**made, "backbone": base.backbone, "facts": facts})


run(main)
