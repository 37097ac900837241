"""A task's frozen head, from the pretrained encoder and a few labelled images."""

from advmerge.artifacts import load_tensors, save_tensors
from advmerge.errors import StudyError
from advmerge.models import Model, Normalise, device
from advmerge.script import arguments, run, work
from advmerge.training import anchor_images, feature_statistics, few_shot_head


def main() -> None:
    args = arguments("pretrained", "corpus", "data", "output")
    head = args.config["head"]
    data, metadata = load_tensors(args["data"])
    corpus, _ = load_tensors(args["corpus"])
    pretrained = Model(args["pretrained"])
    place = device()
    encoder = pretrained.encoder().to(place)
    normalise = Normalise.of(pretrained.backbone).to(place)
    with work():
        statistics = feature_statistics(encoder, normalise, anchor_images(corpus["train_images"]))
        try:
            tensors = few_shot_head(
                encoder,
                normalise,
                data["train_images"],
                data["train_labels"],
                len(metadata["classes"]),
                statistics,
                head["shots"],
                head["scale"],
            )
        except StudyError as error:
            raise StudyError(f"task '{args.config['task']}': {error}") from error
    save_tensors(args["output"], tensors, {**args.provenance(), "classes": metadata["classes"]})


run(main)
