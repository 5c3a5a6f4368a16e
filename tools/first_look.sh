#!/usr/bin/env bash
# first_look.sh: what `make run` does once the packages are there. Builds the attn command, obtains
# a small sentence model, embeds three sentences, writes the page of its heads.
set -euo pipefail
cd "$(dirname "$0")/.."
attn=build/release/bin/attn

mkdir -p build
echo 'Building the attn command (the first time takes a few minutes) ...'
cmake --preset release >build/configure.log 2>&1 || { cat build/configure.log; exit 1; }
cmake --build --preset release --target attn_cli

model=minilm
if ! "$attn" get minilm; then
  model=demo
  echo
  echo 'MiniLM could not be obtained (see above), so this is the built-in demo: random weights, no'
  echo 'meaning in its similarities or heads. With a network, `make run` shows the real model.'
fi

echo
"$attn" run "$model" \
  'A man is playing a guitar on the street.' \
  'Someone makes music in the city.' \
  'The stock market fell sharply today.'
echo
"$attn" look "$model" -o build/page.html --findings 3 \
  'The animal did not cross the street because it was too tired.'
