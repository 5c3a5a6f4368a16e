#!/usr/bin/env bash
# fuzz.sh BUILD SECONDS: runs every fuzzer of BUILD for so long, from its corpus. New inputs go to
# BUILD/corpus, an input that breaks something to BUILD/crashes; then it stops with an error.
set -euo pipefail
build=$(realpath "$1")
seconds=$2
cd "$(dirname "$0")/.."

for fuzzer in "$build"/bin/fuzz_*; do
  parser=${fuzzer##*/fuzz_}
  mkdir -p "$build/corpus/$parser" "$build/crashes"
  echo "== $parser, $seconds s"
  log=$build/fuzz_$parser.log
  "$fuzzer" -max_total_time="$seconds" -max_len=4096 -timeout=10 -rss_limit_mb=2048 \
    -print_final_stats=1 -artifact_prefix="$build/crashes/$parser-" \
    "$build/corpus/$parser" "fuzz/corpus/$parser" >"$log" 2>&1 || { cat "$log"; exit 1; }
  grep '^stat::' "$log"
done
