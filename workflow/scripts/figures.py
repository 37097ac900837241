"""Draw every figure of a study that needs no images, from its outcomes and accuracies."""

from __future__ import annotations

from advmerge import artifacts, figures
from advmerge.script import arguments, run


def main() -> None:
    args = arguments("outcomes", "accuracy", "output-dir")
    drawn = figures.draw(
        artifacts.load_table(args["outcomes"]),
        artifacts.load_table(args["accuracy"]),
        figures.Order(**args.config["order"]),
        confidence=args.config["statistics"]["confidence"],
        bootstrap=args.config["statistics"]["bootstrap"],
        seed=args.config["seed"],
    )
    for name, figure in drawn:
        figures.save(figure, args["output_dir"], name)


run(main)
