#!/usr/bin/env bash
# wheel.sh FOLDER: the Python wheel, as `pip install .` makes it, alone in FOLDER. Needs build/venv
# (tools/venv.sh). Same compiler, flags and depth as the release build, so that ccache knows its
# objects.
set -euo pipefail
folder=$(realpath -m "$1")
cd "$(dirname "$0")/.."
rm -rf "$folder"
CXX=g++ build/venv/bin/pip wheel . --no-build-isolation --no-deps --disable-pip-version-check \
  --config-settings build-dir=build/wheel --config-settings cmake.define.ATTN_WERROR=ON \
  --wheel-dir "$folder" </dev/null
