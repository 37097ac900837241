"""Hold every artifact against the study: the settings and the inputs it says it was made from are the present ones.

The last stage of dvc.yaml, before Snakemake's memory is cached; there, DVC's cache must hold what the stages before have
made, too. Timestamps, locks and Snakemake's own records are not asked; only the files' contents are.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "src"))

from advmerge.artifacts import metadata, sha256
from advmerge.errors import StudyError
from advmerge.study import Study, load

SCRIPTS = {"multitask": "finetune"}  # the rules that run another's script: an artifact names its script
AGAIN = "delete it and run the same command again"


def audit(study: Study) -> int:
    """The number of artifacts, all of them right.

    Raises:
        StudyError: naming the first artifact that is missing, or that other settings or other inputs made.
    """
    content = cache(sha256)
    artifacts = study.artifacts()
    for path, (rule, wanted) in artifacts.items():
        if not Path(path).exists():
            raise StudyError(f"{path}: is missing; run: snakemake --cores all {path}")
        made = metadata(path)
        if made.get("rule") != (script := SCRIPTS.get(rule, rule)):
            raise StudyError(f"{path}: was made by {made.get('rule')}, not by {script}; {AGAIN}")
        if made["slice"] != json.loads(json.dumps(wanted)):
            raise StudyError(f"{path}: was made with other settings than the study's; {AGAIN}")
        for source, hashed in made["inputs"].items():
            if not Path(source).exists():
                raise StudyError(
                    f"{path}: was made from {source}, which is missing; run: snakemake --cores all {source}"
                )
            if content(source) != hashed:
                raise StudyError(f"{path}: was made from another {source} than the present one; {AGAIN}")
    return len(artifacts)


def cached() -> None:
    """On a full disk DVC says that it failed to transfer a file to its cache, and goes on as if it had not.

    Raises:
        StudyError: naming the first output that is not in the cache.
    """
    said = subprocess.run(["dvc", "data", "status", "--json"], stdout=subprocess.PIPE, text=True, check=True).stdout
    if lost := json.loads(said).get("not_in_cache"):
        raise StudyError(f"{lost[0]}: is not in DVC's cache; make room there and run: dvc repro")


def main() -> None:
    try:
        count = audit(load(sys.argv[1] if len(sys.argv) > 1 else "params.yaml"))
        if "DVC_STAGE" in os.environ:
            cached()
    except StudyError as error:
        sys.exit(f"error: {error}")
    print(f"{count} artifacts are what the study asks for")


if __name__ == "__main__":
    main()
