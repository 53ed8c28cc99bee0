"""Tuning: settings of vLLM, searched over with a load of one's own, against goals.

aim = Aim("owner/name", parse_goals("p95 ttft < 1"))
tuning = tune(open_tuning(aim, settings), settings)
print(keep(tuning, settings)["sentence"])
"""

from gearshift.bench.tuning.aim import Aim
from gearshift.bench.tuning.result import Verdict, keep, record
from gearshift.bench.tuning.trial import Outcome, Point, Trial
from gearshift.bench.tuning.tune import Tuning, open_tuning, tune

__all__ = [
    "Aim",
    "Outcome",
    "Point",
    "Trial",
    "Tuning",
    "Verdict",
    "keep",
    "open_tuning",
    "record",
    "tune",
]
