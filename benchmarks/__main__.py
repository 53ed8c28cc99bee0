"""Runs the measurements that need nothing but this repository: `make bench`.

The others need data or an environment of their own; each one's docstring says which.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
SCRIPTS = ("stream_cpu", "search_latency", "ingestion_speed", "citation_threshold", "fit")

for name in SCRIPTS:
    print(f"\n## {name}\n", flush=True)
    subprocess.run([sys.executable, HERE / f"{name}.py"], check=True)
