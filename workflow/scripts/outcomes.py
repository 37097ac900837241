"""The one table: one row per (task, image, surrogate, attack, target)."""

import pandas as pd

from advmerge.artifacts import load_table, save_table
from advmerge.script import arguments, run

NAMES = ["task", "surrogate", "attack", "target"]


def main() -> None:
    args = arguments("parts*", "output")
    table = pd.concat([load_table(path) for path in args["parts"].values()], ignore_index=True)
    save_table(args["output"], table.astype(dict.fromkeys(NAMES, "category")), args.provenance())


run(main)
