"""Write the main tables for a paper and the headline numbers for DVC, from the tables of a study."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd

from advmerge import artifacts, figures, summary
from advmerge.script import arguments, run


def main() -> None:
    args = arguments("table*", "output-metrics", "output-dir")
    sources = {name: pd.read_csv(path) for name, path in args["table"].items()}
    for name, content in summary.tables(sources, figures.Order(**args.config["order"])).items():
        artifacts.save_text(Path(args["output_dir"]) / name, content)
    artifacts.save_text(args["output_metrics"], json.dumps(summary.headline(sources), indent=1) + "\n")


run(main)
