#!/usr/bin/env bash
# venv.sh: the virtual environment of the Python module and its tests, build/venv. Does nothing when
# it is complete; exit 1, with one line that says why, when it cannot be made.
set -euo pipefail
cd "$(dirname "$0")/.."
venv=build/venv
complete() {
  "$venv/bin/python" -c 'import nanobind, numpy, pytest, scikit_build_core, selenium' 2>/dev/null
}
complete && exit 0

mkdir -p build
# Debian's Python, whose headers python3-dev brings; another one where there is none.
python=/usr/bin/python3
[ -x "$python" ] || python=$(command -v python3) || { echo 'python3 is missing'; exit 1; }
echo 'Making build/venv: nanobind and scikit-build-core (the Python module), numpy, pytest, selenium (its tests)'
if ! "$python" -m venv "$venv" >build/venv.log 2>&1; then
  echo "python3 -m venv fails: $(tail -n 1 build/venv.log)"
  exit 1
fi
if ! "$venv/bin/pip" install --disable-pip-version-check --quiet --retries 1 --timeout 20 \
    'nanobind>=3,<4' 'scikit-build-core>=1,<2' numpy pytest selenium \
    >>build/venv.log 2>&1 </dev/null; then
  echo "pip cannot install the Python packages (no network?): $(tail -n 1 build/venv.log)"
  exit 1
fi
complete || { echo 'build/venv is incomplete, see build/venv.log'; exit 1; }
