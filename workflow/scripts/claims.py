"""Write the verdicts on the claims, as JSON and as a table, from a study's outcomes and accuracies."""

from __future__ import annotations

from advmerge import artifacts, claims
from advmerge.script import arguments, run


def main() -> None:
    args = arguments("claims", "outcomes", "accuracy", "output-verdicts", "output-table")
    evaluated = claims.evaluate(
        claims.load(args["claims"]),
        artifacts.load_table(args["outcomes"]),
        artifacts.load_table(args["accuracy"]),
        claims.Names(**args.config["names"]),
        confidence=args.config["statistics"]["confidence"],
        bootstrap=args.config["statistics"]["bootstrap"],
        seed=args.config["seed"],
    )
    artifacts.save_text(args["output_verdicts"], artifacts.canonical(evaluated) + "\n")
    artifacts.save_csv(args["output_table"], claims.summary(evaluated))


run(main)
