#!/usr/bin/env bash
# torch_venv.sh: a virtual environment with PyTorch (CPU use) and Transformers, for the tests of
# attn.torch. Prints its path; exit 1, with one line that says why, when it cannot be made. It is
# large and changes rarely, so it lives outside the tree, in ${XDG_CACHE_HOME:-~/.cache}/attn.
set -euo pipefail
venv=${XDG_CACHE_HOME:-${HOME:?no home folder}/.cache}/attn/torch-venv
log=$venv.log
complete() {
  "$venv/bin/python" -c 'import numpy, pytest, torch, transformers' 2>/dev/null
}
if ! complete; then
  mkdir -p "$(dirname "$venv")"
  # The Python of build/venv, whose wheel these tests load.
  python=/usr/bin/python3
  [ -x "$python" ] || python=$(command -v python3) || { echo 'python3 is missing'; exit 1; }
  if ! "$python" -m venv --clear "$venv" >"$log" 2>&1; then
    echo "python3 -m venv fails: $(tail -n 1 "$log")"
    exit 1
  fi
  install() {
    timeout 300 "$venv/bin/pip" install --disable-pip-version-check --quiet --retries 1 \
      --timeout 20 "$@" >>"$log" 2>&1 </dev/null
  }
  # --no-deps: PyTorch asks for gigabytes of GPU libraries; these are what importing it needs.
  if ! install --no-deps torch==2.13.0 nvidia-cufile==1.20.0.107 nvidia-cusparselt-cu13==0.8.1 \
        nvidia-nccl-cu13==2.29.7 nvidia-nvshmem-cu13==3.4.5 ||
      ! install numpy filelock 'typing-extensions>=4.10' sympy networkx jinja2 fsspec pytest \
        'transformers>=5,<6'; then
    echo "pip cannot install PyTorch and Transformers (no network?): $(tail -n 1 "$log")"
    exit 1
  fi
  complete || { echo "PyTorch or Transformers cannot be imported, see $log"; exit 1; }
fi
echo "$venv"
