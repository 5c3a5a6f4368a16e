#!/usr/bin/env bash
# run_tests.sh: what `make test` does once the packages are there.
#   release build (g++), sanitizer build (clang), Python wheel; then the tests of all three, of the
#   page, and of PyTorch where it can be had.
# Everything is tried even when something fails; tools/summarize_tests.py counts in the end.
set -uo pipefail
cd "$(dirname "$0")/.."
root=$PWD
results=$root/build/test-results
rm -rf "$results"
mkdir -p "$results"
jobs=${CMAKE_BUILD_PARALLEL_LEVEL:-2}
export OMP_WAIT_POLICY=passive PYTHONDONTWRITEBYTECODE=1
if command -v ccache >/dev/null; then
  export CMAKE_CXX_COMPILER_LAUNCHER=ccache CCACHE_BASEDIR=$root CCACHE_NOHASHDIR=true
fi
notes=()
phase() { printf '%s\n' "$*"; }

build_start=$(date +%s)
tools/torch_venv.sh >"$results/torch-venv.log" 2>&1 &  # downloads while compilers run
torch_venv=$!

# Configures and builds a preset: build PRESET [-D...]. A failure is a failed test.
build() {
  local preset=$1
  phase "Building $preset ..."
  if cmake --preset "$@" >"$results/$preset-configure.log" 2>&1 &&
      cmake --build --preset "$preset" >"$results/$preset-build.log" 2>&1; then
    return 0
  fi
  tail -n 40 "$results/$preset-configure.log"
  grep -A 12 -m 20 -E 'error|FAILED' "$results/$preset-build.log" 2>/dev/null | head -n 200
  notes+=(--failed "$preset build")
  return 1
}

have_release='' have_sanitize='' python=''
build release && have_release=1
build sanitize && have_sanitize=1

# What `pip install .` gives, in build/venv.
if reason=$(tools/venv.sh 2>&1 | tail -n 1; exit "${PIPESTATUS[0]}"); then
  phase 'Building the Python wheel ...'
  if tools/wheel.sh "$results/wheel" >"$results/wheel.log" 2>&1 &&
      build/venv/bin/pip install --disable-pip-version-check --no-deps --no-index --force-reinstall \
        "$results"/wheel/*.whl >>"$results/wheel.log" 2>&1 </dev/null; then
    python=$root/build/venv/bin/python
  else
    tail -n 40 "$results/wheel.log"
    notes+=(--failed 'Python wheel')
    reason='the wheel does not build'
  fi
else
  phase "No Python tests: $reason"
fi
build_end=$(date +%s)

# The models of the parity tests: fetched once, then from the cache; tests skip without them.
if [ -n "$have_release" ]; then
  for model in minilm smollm2; do
    build/release/bin/attn get "$model" --path >/dev/null 2>"$results/get.log" ||
      phase "No $model, its tests are skipped: $(tail -n 1 "$results/get.log")"
  done
fi

# run_ctest PRESET: all its tests, results to PRESET.xml.
run_ctest() {
  phase "Testing $1 ..."
  ctest --preset "$1" -j "$jobs" --output-junit "$results/$1.xml" >"$results/$1.log" 2>&1
  notes+=(--junit "$1=$results/$1.xml")
}
[ -z "$have_release" ] || run_ctest release
[ -z "$have_sanitize" ] || run_ctest sanitize

if [ -z "$python" ]; then
  notes+=(--skipped "Python and page tests: $reason")
elif [ -n "$have_release" ]; then
  phase 'Testing Python and the page ...'
  ATTN_BIN=$root/build/release/bin/attn "$python" -m pytest tests -q -p no:cacheprovider \
    --ignore-glob='*/test_torch*.py' --junitxml="$results/python.xml" \
    >"$results/python.log" 2>&1 </dev/null
  [ -s "$results/python.xml" ] || tail -n 20 "$results/python.log"
  notes+=(--junit "python=$results/python.xml")
fi

# The same wheel beside PyTorch, whose environment stays as it is.
if ! wait "$torch_venv"; then
  notes+=(--skipped "PyTorch tests: $(tail -n 1 "$results/torch-venv.log")")
elif [ -n "$python" ]; then
  phase 'Testing PyTorch and Transformers ...'
  torch=$(tail -n 1 "$results/torch-venv.log")/bin/python
  "$torch" -m pip install --disable-pip-version-check --no-deps --no-index --quiet \
    --target "$results/site" "$results"/wheel/*.whl >"$results/torch.log" 2>&1 </dev/null
  PYTHONPATH=$results/site "$torch" -m pytest tests/python/test_torch*.py -q -p no:cacheprovider \
    --junitxml="$results/torch.xml" >>"$results/torch.log" 2>&1 </dev/null
  [ -s "$results/torch.xml" ] || tail -n 20 "$results/torch.log"
  notes+=(--junit "torch=$results/torch.xml")
fi
run_end=$(date +%s)

summary=0
python3 tools/summarize_tests.py "${notes[@]}" \
  --minutes "building=$((build_end - build_start))" "running=$((run_end - build_end))" || summary=$?
exit "$summary"
