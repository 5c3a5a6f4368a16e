#!/usr/bin/env bash
# packages.sh GROUP...: installs the system packages of these groups that are missing, saying what
# and why. Runs nothing when all is there; needs Debian or a relative of it for the installing.
# Groups: build, test, page (wanted, not needed: its tests are skipped without), lint, docs.
set -euo pipefail

arch=$(dpkg --print-architecture 2>/dev/null || uname -m)

list() {
  case $1 in
    build)
      cat <<'LIST'
g++: the compiler
cmake: configures the build
ninja-build: runs the build
pkg-config: finds utf8proc, PCRE2 and SentencePiece
libhwy-dev: Highway, vector instructions
nlohmann-json3-dev: reads and writes JSON
libcli11-dev: the command line
libfmt-dev: text output
libutf8proc-dev: Unicode normalisation of texts
libpcre2-dev: patterns of tokenizers
libsentencepiece-dev: tokenizers of translation models
libgtest-dev: tests
libgmock-dev: tests
libbenchmark-dev: benchmarks
libopenblas-dev: the benchmarks' comparison
python3: tests, unpacking models
python3-pip: downloading models
python3-venv: the environment of the Python module and its tests
LIST
      if [ "$arch" = amd64 ] || [ "$arch" = x86_64 ]; then
        echo 'libdnnl-dev: oneDNN, dense products of layers'
        echo "ocl-icd-opencl-dev: headers that oneDNN's CMake files ask for"
      fi
      ;;
    test)
      cat <<'LIST'
clang: second compiler, sanitizers, fuzzing
libclang-rt-14-dev: the sanitizers' run-time library
libomp-dev: OpenMP for clang
clang-format-14: the pinned formatter
python3-dev: the Python module
ccache: compiles the library once for its build and the Python wheel
LIST
      ;;
    page)
      echo 'chromium: drives the page in its test'
      echo 'chromium-driver: drives the page in its test'
      ;;
    lint)
      echo 'clang-tidy-14: the linter'
      echo 'clang-tools-14: runs the linter in parallel'
      ;;
    docs) echo 'doxygen: the API pages' ;;
    *) echo "packages.sh: no group '$1' (build, test, page, lint, docs)" >&2; exit 2 ;;
  esac
}

is_there() {
  [ "$(dpkg-query -W -f='${db:Status-Status}' "$1" 2>/dev/null)" = installed ]
}

needed='' wanted=''
for group in "$@"; do
  lines=$(list "$group")
  if command -v dpkg-query >/dev/null; then
    lines=$(while IFS= read -r line; do
      is_there "${line%%:*}" || printf '%s\n' "$line"
    done <<<"$lines")
  fi
  [ -n "$lines" ] || continue
  if [ "$group" = page ]; then wanted+="$lines"$'\n'; else needed+="$lines"$'\n'; fi
done
[ -n "$needed$wanted" ] || exit 0

show() { printf '%s' "$1" | sed 's/^\([^:]*\): /  \1\t/' | expand -t 26; }
names() { printf '%s' "$1" | cut -d: -f1 | tr '\n' ' '; }

if ! command -v apt-get >/dev/null || ! command -v dpkg-query >/dev/null; then
  echo 'This is not a Debian-like system, so nothing is installed here. What is used, by Debian name:'
  show "$needed$wanted"
  echo 'With these at hand, continue with: cmake --preset release && cmake --build --preset release'
  # The build finds out what is really missing.
  exit 0
fi

root=()
if [ "$(id -u)" != 0 ]; then
  if command -v sudo >/dev/null; then
    root=(sudo)
  else
    echo 'These system packages are missing, and there is neither root nor sudo to install them:'
    show "$needed$wanted"
    echo "As root: apt-get install $(names "$needed$wanted")"
    [ -z "$needed" ] || exit 1
    exit 0
  fi
fi

apt() {
  "${root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -o Dpkg::Use-Pty=0 \
    -o DPkg::Lock::Timeout=120 "$@" </dev/null >>"$log" 2>&1
}
# install LINES: the packages of these lines.
install() {
  local packages
  read -r -a packages <<<"$(names "$1")"
  apt install -y --no-install-recommends "${packages[@]}"
}

log=$(mktemp)
trap 'rm -f "$log"' EXIT
echo "Installing missing system packages with${root[*]:+ ${root[*]}} apt-get:"
show "$needed$wanted"
apt update || echo 'apt-get update failed; trying with the lists at hand.'
if [ -n "$needed" ] && ! install "$needed"; then
  tail -n 15 "$log"
  echo 'Could not install what is needed; the lines above say why.'
  exit 1
fi
if [ -n "$wanted" ] && ! install "$wanted"; then
  tail -n 5 "$log"
  echo "Could not install $(names "$wanted")- its tests will be skipped."
fi
