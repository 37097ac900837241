"""Draw one adversarial example a task with every model's answer, chosen by rule, not by looks."""

from __future__ import annotations

from advmerge import artifacts, figures, figures_gallery
from advmerge.examples import examples
from advmerge.script import arguments, run


def main() -> None:
    args = arguments("outcomes", "data*", "adversarial*", "output-dir")
    order = figures.Order(**args.config["order"])
    outcomes = artifacts.load_table(args["outcomes"])
    outcomes = outcomes[outcomes["seed"] == args.config["shown_seed"]]
    found, title = examples(args["data"], args["adversarial"], outcomes, order)
    figures.save(figures_gallery.gallery(found, title, order), args["output_dir"], "gallery")


run(main)
