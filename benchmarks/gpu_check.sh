#!/usr/bin/env bash
# Builds, tests, benchmarks and sanitizes the CUDA kernels on this machine's GPU, in one call and under ten minutes:
#
#   benchmarks/gpu_check.sh                         # results in benchmarks/results/<gpu>.json and .md
#   benchmarks/gpu_check.sh --quick --output DIR    # --help says the rest
#
# PYTHON names the interpreter; else it is the checkout's .venv, or python3.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
python=${PYTHON:-$root/.venv/bin/python}
[ -x "$python" ] || [ -n "${PYTHON:-}" ] || python=python3
PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH} exec "$python" -P -m benchmarks.gpu_check "$@"
