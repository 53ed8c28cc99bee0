"""The background loop ends with its process, quietly."""

import subprocess
import sys

AT_WORK_WHEN_THE_PROCESS_ENDS = """
import asyncio, atexit, time
from concurrent.futures import wait
from gearshift.providers._loop import submit

async def work():
    try:
        while True:
            await asyncio.to_thread(time.sleep, 0.05)
    except asyncio.CancelledError:
        print("cancelled")
        raise

future = submit(work())
atexit.register(wait, [future], 10)
time.sleep(0.1)
"""


def test_what_still_runs_when_the_process_ends_is_cancelled_not_broken():
    found = subprocess.run(
        [sys.executable, "-c", AT_WORK_WHEN_THE_PROCESS_ENDS],
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert "cancelled" in found.stdout
    assert found.stderr == ""
