"""Clean accuracy of every model, in every seed, on every task."""

import pandas as pd

from advmerge.artifacts import load_table, save_table
from advmerge.script import arguments, run


def main() -> None:
    args = arguments("clean*", "output")
    parts = []
    for key, path in args["clean"].items():
        model, seed = key.split("/")
        parts.append(load_table(path).assign(model=model, seed=int(seed)))
    answers = pd.concat(parts, ignore_index=True)
    answers["correct"] = answers["prediction"] == answers["label"]
    groups = answers.groupby(["model", "seed", "task", "split"], sort=False, observed=True)["correct"]
    table = groups.agg(correct="sum", n="size").reset_index()
    table["accuracy"] = table["correct"] / table["n"]
    save_table(args["output"], table, args.provenance())


run(main)
