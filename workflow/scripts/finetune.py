"""Train the whole encoder under frozen heads: an expert on its task, or the multi-task model on all of them."""

from advmerge.artifacts import load_tensors, save_tensors
from advmerge.hardware import set_up
from advmerge.models import Model, Normalise, load_head
from advmerge.script import arguments, progress, run, work
from advmerge.seeding import torch_generator
from advmerge.training import Anchor, anchor_images, finetune


def main() -> None:
    args = arguments("pretrained", "corpus?", "data*", "head*", "output")
    recipe = args.config["recipe"]
    pretrained = Model(args["pretrained"])
    hardware = set_up(args.config["hardware"])
    encoder = pretrained.encoder().to(hardware.device)
    normalise = Normalise.of(pretrained.backbone).to(hardware.device)
    tasks = {}
    for task, path in args["data"].items():
        data, _ = load_tensors(path)
        tasks[task] = (data["train_images"], data["train_labels"], load_head(args["head"][task]).to(hardware.device))
    name = next(iter(tasks)) if len(tasks) == 1 else "multitask"
    with work():
        anchor = None
        if recipe["anchor"]:
            corpus, _ = load_tensors(args["corpus"])
            anchor = Anchor(encoder, normalise, anchor_images(corpus["train_images"]), recipe["anchor_batch"])
        generator = torch_generator(args.config["seed"], "finetune", *tasks)
        report = progress(f"finetune {name}")
        facts = finetune(encoder, normalise, tasks, anchor, recipe, generator, report, hardware.dtype)
    state = {name: tensor.cpu() for name, tensor in encoder.state_dict().items()}
    made = {**args.provenance(), **hardware.record()}
    save_tensors(args["output"], state, {**made, "backbone": pretrained.backbone, "facts": facts})


run(main)
