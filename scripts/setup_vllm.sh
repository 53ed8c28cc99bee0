#!/usr/bin/env bash
# Starts a vLLM server: setup_vllm.sh MODEL [GPUS] [TP] [options of `gearshift serve`].
# Installs vLLM first where it is missing.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
if [[ $# -lt 1 ]]; then
  echo "usage: ${0##*/} MODEL [GPUS] [TP] [options: see gearshift serve --help]" >&2
  exit 2
fi
if [[ ! -x $here/.venv/bin/gearshift ]]; then
  make -C "$here" .venv/ready
fi
exec "$here/.venv/bin/gearshift" serve "$@"
