#!/usr/bin/env bash
# format.sh [--check]: formats all C++ of the project with clang-format 14, or checks that it is.
# Exit 77 when that version is missing: another one formats differently.
set -euo pipefail
cd "$(dirname "$0")/.."
tool=$(command -v clang-format-14 || command -v clang-format || true)
if [ -z "$tool" ] || ! "$tool" --version | grep -q 'version 14\.'; then
  echo 'clang-format 14 is missing (Debian: clang-format-14)'
  exit 77
fi
mapfile -t files < <(find include src apps bench fuzz examples tests python -name '*.h' -o -name '*.cpp')
if [ "${1:-}" = --check ]; then
  "$tool" --dry-run -Werror "${files[@]}"
else
  "$tool" -i "${files[@]}"
fi
echo "${#files[@]} files"
