"""Draw one figure of a study from its outcomes and accuracies."""

from __future__ import annotations

from advmerge import artifacts, figures
from advmerge.script import arguments, run


def main() -> None:
    args = arguments("outcomes", "accuracy", "output-dir")
    config = args.config
    figure = figures.draw(
        config["figure"],
        artifacts.load_table(args["outcomes"]),
        artifacts.load_table(args["accuracy"]),
        figures.Order(**config["order"]),
        confidence=config["statistics"]["confidence"],
        bootstrap=config["statistics"]["bootstrap"],
        seed=config["seed"],
        shown=config["shown"],
    )
    figures.save(figure, args["output_dir"], config["figure"])


if __name__ == "__main__":
    run(main)
