"""``python -m advmerge.plan STUDY TFLOPS FILE``: write what jobs ask a cluster for, whose GPUs' peak is TFLOPS."""

import json
import sys

from advmerge.artifacts import replacing
from advmerge.errors import StudyError
from advmerge.plan import Speeds, jobs, networks
from advmerge.plan.requests import requests
from advmerge.plan.speeds import UTILISATION, stated
from advmerge.study import load

try:
    study = load(sys.argv[1])
    known = networks(study)
    speeds = Speeds(stated(float(sys.argv[2]), UTILISATION), 1, 100e6, start=60)
    asked = requests(jobs(study, known), known, speeds, on_cpu=study.hardware.device == "cpu")
    with replacing(sys.argv[3]) as path:
        path.write_text(json.dumps(asked), encoding="utf-8")
except StudyError as error:
    sys.exit(f"error: {error}")
