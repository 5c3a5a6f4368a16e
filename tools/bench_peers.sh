#!/usr/bin/env bash
# bench_peers.sh peers|models [OPTION...]: what `make bench-peers` and `make bench-models` do once the
# packages are there. Obtains the peers, builds the wheel, runs bench/peers.py or bench/models.py
# with these options. A peer that cannot be had is named and left out; bench/models.py needs
# Transformers.
set -euo pipefail
cd "$(dirname "$0")/.."
what=$1
shift
logs=build/bench
mkdir -p "$logs"
note() { printf '%s\n' "$*" >&2; }
fail() {
  note "$1, see $2:"
  tail -n 20 "$2" >&2
  exit 1
}

note 'Obtaining PyTorch and ONNX Runtime, building attn ...'
tools/torch_venv.sh >"$logs/torch-venv.log" 2>&1 &  # downloads while compilers run
torch_venv=$!
tools/venv.sh >"$logs/venv.log" 2>&1 || fail 'build/venv cannot be made' "$logs/venv.log"
tools/wheel.sh "$logs/wheel" >"$logs/wheel.log" 2>&1 || fail 'the wheel does not build' "$logs/wheel.log"
if [ "$what" = peers ]; then
  cmake --preset release >"$logs/openblas.log" 2>&1 &&
    cmake --build --preset release --target attn_openblas >>"$logs/openblas.log" 2>&1 ||
    note "OpenBLAS cannot be called, see $logs/openblas.log"
fi
if wait "$torch_venv"; then
  python=$(tail -n 1 "$logs/torch-venv.log")/bin/python
else
  note "No PyTorch: $(tail -n 1 "$logs/torch-venv.log")"
  [ "$what" = peers ] || exit 1
  python=build/venv/bin/python
fi

install() {
  timeout 300 "$python" -m pip install --disable-pip-version-check --no-deps --upgrade --quiet \
    "$@" </dev/null
}
install --no-index --target "$logs/site" "$logs"/wheel/*.whl >"$logs/site.log" 2>&1 ||
  fail 'the wheel cannot be installed' "$logs/site.log"
# ONNX Runtime, beside the environment that the tests use: only this needs it.
onnx=${XDG_CACHE_HOME:-${HOME:?no home folder}/.cache}/attn/onnxruntime-site
export PYTHONPATH=$PWD/$logs/site:$onnx PYTHONDONTWRITEBYTECODE=1
if ! "$python" -c 'import onnx, onnxruntime' 2>/dev/null; then
  # What importing them needs, but numpy.
  install --retries 1 --timeout 20 --target "$onnx" onnxruntime==1.32.0 onnx==1.23.2 \
    'flatbuffers' 'ml_dtypes>=0.5.4' packaging 'protobuf>=6.31.1' 'typing_extensions>=4.7.1' \
    >"$logs/onnx.log" 2>&1 ||
    note "pip cannot install ONNX Runtime (no network?): $(tail -n 1 "$logs/onnx.log")"
fi

ATTN_OPENBLAS=$PWD/build/release/bin/libattn_openblas.so exec "$python" "bench/$what.py" "$@"
