"""Write the tables and draw the figures of what goes with transfer."""

from __future__ import annotations

from pathlib import Path

from advmerge import artifacts, associations, figures, figures_explain
from advmerge.script import arguments, run


def main() -> None:
    import pandas as pd

    args = arguments("outcomes", "parts*", "output-dir")
    config = args.config
    found: dict[str, list] = {"pairs": [], "dose": [], "path": [], "plane": []}
    for name, path in args["parts"].items():
        found[name.split("/")[0]].append(artifacts.load_table(path))
    found["dose"] = found["dose"] or [found["path"][0].iloc[:0].assign(target="", dose=0.0)]
    parts = {name: pd.concat(tables, ignore_index=True) for name, tables in found.items()}
    outcomes = artifacts.load_table(args["outcomes"])
    computed = associations.tables(
        parts,
        outcomes[outcomes["seed"] == config["shown_seed"]],
        config["attack"],
        config["eps"],
        confidence=config["statistics"]["confidence"],
        controls=config["order"]["controls"],
    )
    folder = Path(args["output_dir"])
    for name, table in computed.items():
        artifacts.save_csv(folder / "tables" / name, table)
    order = figures.Order(**config["order"])
    for name in config["figures"]:
        figure = figures_explain.draw(name, computed, order, config)
        figures.save(figure, folder / "figures", name)


if __name__ == "__main__":
    run(main)
