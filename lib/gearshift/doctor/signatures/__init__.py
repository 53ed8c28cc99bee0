"""What failures look like: a file for each family of causes, a `Signature` for each look.

Of two signatures that a log holds the earlier line wins, within a tier; see `recogniser`.
"""

from __future__ import annotations

from gearshift.doctor._signature import Signature
from gearshift.doctor.signatures import (
    driver,
    hardware,
    hub,
    memory,
    model,
    ollama,
    parallel,
    process,
)

SIGNATURES: tuple[Signature, ...] = (
    *memory.SIGNATURES,
    *parallel.SIGNATURES,
    *hardware.SIGNATURES,
    *driver.SIGNATURES,
    *model.SIGNATURES,
    *process.SIGNATURES,
    *hub.SIGNATURES,
    *ollama.SIGNATURES,
)
