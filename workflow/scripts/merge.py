"""One merged encoder; options given as lists are chosen by mean accuracy on validation images."""

from advmerge.artifacts import load_tensors, save_tensors
from advmerge.errors import StudyError
from advmerge.hardware import set_up
from advmerge.merging import Adaptation, grid, method
from advmerge.merging.engine import adapt, merge
from advmerge.merging.files import Lazy
from advmerge.models import Classifier, Model, Normalise, load_head, predict, state_of
from advmerge.script import arguments, progress, run, work


def main() -> None:
    args = arguments("pretrained", "finetuned*", "head*", "data*", "output")
    config = args.config
    pretrained = Model(args["pretrained"])
    finetuned = {task: Lazy(path) for task, path in args["finetuned"].items()}
    heads = {task: load_head(path) for task, path in args["head"].items()}
    data = {task: load_tensors(path)[0] for task, path in args["data"].items()}
    hardware = set_up(config["hardware"])
    place = hardware.device
    encoder = pretrained.encoder().to(place).requires_grad_(False)
    normalise = Normalise(pretrained.backbone["mean"], pretrained.backbone["std"])
    classifiers = {task: Classifier(encoder, head, normalise).to(place) for task, head in heads.items()}

    def accuracy(tensors: dict) -> float:
        """Mean over tasks of the accuracy on validation images of the encoder that answers for the task."""
        shares = []
        for task, model in classifiers.items():
            encoder.load_state_dict(state_of(tensors, task))
            answers = predict(model, data[task]["val_images"], 256).argmax(1)
            shares.append((answers == data[task]["val_labels"]).double().mean())
        return float(sum(shares) / len(shares))

    def make(options: dict) -> tuple[dict, dict]:
        """The merged tensors for one point of the grid, and facts about them."""
        chosen = method(config["method"])
        if not chosen.adaptive:
            merged = merge(config["method"], pretrained.state, finetuned, seed=config["seed"], **options)
            return merged, {}
        encoder.load_state_dict(pretrained.state)
        split = "train" if chosen.data == "labelled" else "adapt"
        tasks = {
            task: Adaptation(
                model, data[task][f"{split}_images"], data[task]["train_labels"] if split == "train" else None
            )
            for task, model in classifiers.items()
        }
        report = progress(f"merge {config['name']}")
        return adapt(config["method"], pretrained.state, finetuned, tasks, config["seed"], report, **options)

    points = grid(config["options"])
    tried, best = [], None
    with work():
        for options in points:
            try:
                tensors, facts = make(options)
            except StudyError as error:
                raise StudyError(f"merging.{config['name']}: {error}") from error
            score = accuracy(tensors) if len(points) > 1 else None
            tried.append({"options": options, "validation_accuracy": score})
            if best is None or (score is not None and score > best[0]):
                best = (score, options, tensors, facts)
    _, options, tensors, facts = best
    found = {"chosen": options, "tried": tried, **facts}
    made = {**args.provenance(), **hardware.record()}
    save_tensors(args["output"], tensors, {**made, "backbone": pretrained.backbone, "facts": found})


run(main)
