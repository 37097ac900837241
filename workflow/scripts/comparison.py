"""Write the tables of tests between the attacked models from a study's outcomes and accuracies."""

from __future__ import annotations

from pathlib import Path

from advmerge import artifacts, comparison
from advmerge.script import arguments, run


def main() -> None:
    args = arguments("outcomes", "accuracy", "output-dir")
    computed = comparison.tables(
        artifacts.load_table(args["outcomes"]),
        artifacts.load_table(args["accuracy"]),
        confidence=args.config["statistics"]["confidence"],
        bootstrap=args.config["statistics"]["bootstrap"],
        seed=args.config["seed"],
        controls=args.config["order"]["controls"],
    )
    for name, table in computed.items():
        artifacts.save_csv(Path(args["output_dir"]) / name, table)


run(main)
