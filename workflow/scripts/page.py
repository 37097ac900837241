"""Write the study's page from its tables, verdicts, examples and models' metadata."""

from __future__ import annotations

import json
from pathlib import Path

from advmerge import artifacts, figures, page
from advmerge.examples import examples
from advmerge.script import arguments, run


def main() -> None:
    args = arguments("table*", "verdicts", "outcomes", "data*", "adversarial*", "model*", "output")
    import pandas as pd

    order = figures.Order(**args.config["order"])
    outcomes = artifacts.load_table(args["outcomes"])
    outcomes = outcomes[outcomes["seed"] == args.config["shown_seed"]]
    found, title = examples(args["data"], args["adversarial"], outcomes, order)
    text = page.render(
        {name: pd.read_csv(path) for name, path in args["table"].items()},
        json.loads(Path(args["verdicts"]).read_text(encoding="utf-8")),
        found,
        {name: artifacts.metadata(path) for name, path in args["model"].items()},
        args.config,
        data={task: artifacts.metadata(path) for task, path in args["data"].items()},
        gallery_title=title,
        inputs=args.provenance()["inputs"],
    )
    artifacts.save_text(args["output"], text)


run(main)
