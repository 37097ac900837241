"""Adversarial examples for one task on one surrogate by one attack, and what the surrogate says of them."""

import torch

from advmerge.artifacts import load_tensors, save_tensors
from advmerge.attacks.bridge import check_budget, craft
from advmerge.hardware import set_up
from advmerge.models import answering, to_unit
from advmerge.script import arguments, progress, run, work
from advmerge.transfer import answers, answers_and_gradients, distances


def main() -> None:
    args = arguments("model*", "head*", "data", "output")
    config = args.config
    hardware = set_up(config["hardware"])
    data, metadata = load_tensors(args["data"])
    count, batch = config["images"], config["batch_size"]
    clean, labels = to_unit(data["attack_images"][:count]), data["attack_labels"][:count]
    model = answering(config["task"], args["model"], args["head"], config["fuse"], hardware.dtype).to(hardware.device)
    # Not drawn for a surrogate: noise is then the same noise on both.
    seed = (config["seed"], "attack", config["task"], config["name"])
    with work():
        adversarial = craft(
            model,
            clean,
            labels,
            config["method"],
            config["options"],
            seed=seed,
            classes=len(metadata["classes"]),
            batch_size=batch,
            progress=progress(f"attack {config['task']} {config['surrogate']} {config['name']}"),
        )
        options = config["options"]
        check_budget(clean, adversarial, options.get("eps"), options.get("norm", "inf"))
        clean_prediction, clean_margin, zero_gradients = answers_and_gradients(model, clean, labels, batch)
        prediction, margin = answers(model, adversarial, labels, batch)
    l2, linf, changed = distances(clean, adversarial)
    right = clean_prediction == labels
    fooled = (right & (prediction != labels)).sum()
    facts = {
        "asr": float(fooled / right.sum()) if right.any() else None,
        "clean_accuracy": float(right.double().mean()),
        "mean_l2": float(l2.mean()),
        "max_linf": float(linf.max()),
        "unchanged_share": float((~changed).double().mean()),
        "zero_gradient_share": zero_gradients,
    }
    tensors = {
        "images": adversarial,
        "index": torch.arange(count),
        "label": labels,
        "clean_prediction": clean_prediction,
        "clean_margin": clean_margin,
        "prediction": prediction,
        "margin": margin,
        "l2": l2,
        "linf": linf,
        "changed": changed,
    }
    save_tensors(args["output"], tensors, {**args.provenance(), **hardware.record(), "facts": facts})


run(main)
