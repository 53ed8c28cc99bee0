"""What is wrong with this machine, and why did a server fail."""

from __future__ import annotations

from gearshift.doctor.causes import Cause
from gearshift.doctor.log import make_log, read_log
from gearshift.doctor.recogniser import Diagnosis, Report, diagnose

__all__ = ["Cause", "Diagnosis", "Report", "diagnose", "make_log", "read_log"]
