"""One merged encoder; options given as lists are chosen by mean accuracy on validation images."""

from advmerge.artifacts import load_tensors, save_tensors
from advmerge.errors import StudyError
from advmerge.merging import Adaptation, adapt, check_models, grid, merge, method
from advmerge.models import Classifier, Model, Normalise, device, load_head, predict
from advmerge.script import arguments, progress, run, work


def main() -> None:
    args = arguments("pretrained", "finetuned*", "head*", "data*", "output")
    config = args.config
    pretrained = Model(args["pretrained"])
    finetuned = {task: Model(path).state for task, path in args["finetuned"].items()}
    heads = {task: load_head(path) for task, path in args["head"].items()}
    data = {task: load_tensors(path)[0] for task, path in args["data"].items()}
    try:
        check_models(pretrained.state, finetuned)
    except StudyError as error:
        raise StudyError(f"merging.{config['name']}: {error}") from error
    place = device()
    encoder = pretrained.encoder().to(place).requires_grad_(False)
    normalise = Normalise(pretrained.backbone["mean"], pretrained.backbone["std"])
    classifiers = {task: Classifier(encoder, head, normalise).to(place) for task, head in heads.items()}

    def accuracy(state: dict) -> float:
        """Mean over tasks of the accuracy on validation images."""
        encoder.load_state_dict(state)
        shares = [
            (predict(model, data[task]["val_images"], 256).argmax(1) == data[task]["val_labels"]).double().mean()
            for task, model in classifiers.items()
        ]
        return float(sum(shares) / len(shares))

    def make(options: dict) -> tuple[dict, dict]:
        """The merged tensors for one point of the grid, and facts about them."""
        if method(config["method"]).data == "none":
            return merge(config["method"], pretrained.state, finetuned, **options), {}
        encoder.load_state_dict(pretrained.state)
        tasks = {task: Adaptation(model, data[task]["adapt_images"]) for task, model in classifiers.items()}
        report = progress(f"merge {config['name']}")
        return adapt(config["method"], pretrained.state, finetuned, tasks, config["seed"], report, **options)

    points = grid(config["options"])
    tried, best = [], None
    with work():
        for options in points:
            state, facts = make(options)
            score = accuracy(state) if len(points) > 1 else None
            tried.append({"options": options, "validation_accuracy": score})
            if best is None or (score is not None and score > best[0]):
                best = (score, options, state, facts)
    _, options, state, facts = best
    found = {"chosen": options, "tried": tried, **facts}
    save_tensors(args["output"], state, {**args.provenance(), "backbone": pretrained.backbone, "facts": found})


run(main)
