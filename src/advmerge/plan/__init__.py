"""What a study costs before it is run: jobs, passes through the networks, FLOPs, bytes, memory and hours.

Every artifact of the study is a job; the slice that it depends on says what the job does. A network's FLOPs are counted on
tensors without content, an attack's passes by running it (:mod:`advmerge.attacks.counting`), a merging method's are
stated beside it. Speeds are given, or measured on this machine.
"""

from advmerge.plan.jobs import Job, jobs
from advmerge.plan.networks import Network, networks
from advmerge.plan.speeds import Speeds
from advmerge.plan.totals import Totals, report, totals

__all__ = ["Job", "Network", "Speeds", "Totals", "jobs", "networks", "report", "totals"]
