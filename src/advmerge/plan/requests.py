"""What a job of each rule asks a cluster for: memory and time, from the plan, with room to spare."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from advmerge.plan.jobs import Job
from advmerge.plan.networks import Network
from advmerge.plan.speeds import Speeds
from advmerge.plan.totals import seconds

# MB that torch and a GPU's libraries take on the host, and how much more than planned is asked for.
LIBRARIES, MORE = 4000, 1.5
# Times the planned time, because a shared node and its disk are slower than their makers say; and minutes at least, in
# which a job is started, torch imported and a small network run that a GPU has no use for.
SAFETY, LEAST = 4, 10


def requests(
    jobs: Iterable[Job], networks: Mapping[str, Network], speeds: Speeds, on_cpu: bool = False
) -> dict[str, dict[str, int]]:
    """Rule → ``mem_mb`` and ``runtime`` (minutes) that are enough for its largest job at the first attempt."""
    found: dict[str, dict[str, int]] = {}
    for job in jobs:
        memory = LIBRARIES + MORE * (job.memory + on_cpu * job.kept) / 1e6
        minutes = max(LEAST, SAFETY * seconds(job, networks, speeds) / 60)
        asked = found.setdefault(job.rule, {"mem_mb": 0, "runtime": 0})
        asked["mem_mb"] = max(asked["mem_mb"], math.ceil(memory / 500) * 500)
        asked["runtime"] = max(asked["runtime"], math.ceil(minutes))
    return found
