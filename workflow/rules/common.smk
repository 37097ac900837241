# Reads and checks the study, and gives the rules their paths, code inputs and the way a job is run.

import json
import os
import sys
from pathlib import Path

SCRIPTS = "workflow/scripts"
sys.path.insert(0, str(Path(workflow.basedir, "src")))

from advmerge import attacks, data, merging
from advmerge.artifacts import canonical
from advmerge.errors import StudyError
from advmerge.jobs.session import prepare, start_warm_process, stop_warm_process
from advmerge.sources import closure
from advmerge.study import load

try:
    study_file = str([*workflow.configfiles, "params.yaml"][0])
    study = load(study_file)
    if workflow.is_main_process:
        prepare(study, study_file, touch="--touch" in sys.argv)
except StudyError as error:
    sys.exit(f"error: {error}")

RESULTS, REPORTS, LOGS = study.results, study.reports, f"logs/{study.study}"
DATA = f"{RESULTS}/data/{{task}}.safetensors"
CORPUS = f"{RESULTS}/data/corpus.safetensors"
HEAD = f"{RESULTS}/heads/{{task}}.safetensors"
PRETRAINED = f"{RESULTS}/models/pretrained.safetensors"
FINETUNED = f"{RESULTS}/models/finetuned/{{task}}.safetensors"
MULTITASK = f"{RESULTS}/models/multitask.safetensors"
MERGED = f"{RESULTS}/merged/{{merged}}.safetensors"
ADVERSARIAL = f"{RESULTS}/adversarial/{{task}}/{{surrogate}}/{{attack}}.safetensors"
CLEAN = f"{RESULTS}/clean/{{model}}.parquet"
OUTCOMES = f"{RESULTS}/outcomes/{{target}}/{{attack}}.parquet"

PLAIN = [name for name, entry in study.merging.items() if "method" in entry]
WITH_SURGERY = [name for name, entry in study.merging.items() if "base" in entry]


wildcard_constraints:
    task="|".join(study.tasks),
    surrogate="|".join([*study.surrogates, *study.targets]),
    attack="|".join(study.cells()),
    model="|".join(["pretrained", "finetuned", *study.targets]),
    target="|".join(study.targets),


# How a job is run: see src/advmerge/jobs/launch.py. One thread a job: two processes of one thread each
# beat one process of two by far.
os.environ.update(
    OMP_NUM_THREADS="1",
    MKL_NUM_THREADS="1",
    OPENBLAS_NUM_THREADS="1",
    TIMM_FUSED_ATTN="0",
)
JOB = f"{sys.executable} -IS {Path(workflow.basedir, 'src/advmerge/jobs/launch.py')}"
JOB_GPU = f"{JOB} --gpu"
# Drawing needs no torch, so it need not wait until the warm process has imported it.
JOB_LIGHT = f"ADVMERGE_WARM= {JOB}"


def each_task(pattern):
    """The path of every task."""
    return [pattern.format(task=task) for task in study.tasks]


def named(option, paths, names=study.tasks):
    """The argument of a script that takes a path for each name: --option name=path …"""
    return f"--{option} " + " ".join(
        f"{name}={path}" for name, path in zip(names, paths, strict=True)
    )


def code(script, *modules):
    """A rule's script, and the files of the library that it uses: inputs like any other."""
    return closure(f"{SCRIPTS}/{script}.py", *modules)
