#!/bin/sh
# Prints the tables of docs/experiments.md: perplexity of a long text with a small cache, and past a
# model's context.
#
#   tools/long_context.sh streaming [TOKENS] [STEP]     default: 8192 64
#   tools/long_context.sh rope [FACTOR...]              default: 2 4
#
# ATTN: the command, default build/release/bin/attn. MODEL: default smollm2. TEXT: a file, default
# ../shared/assets/text/wikitext2-valid.txt. CONTEXT: of the model, default 8192. ARGUMENTS: more for
# every run, as "--threads 1".
set -eu
cd "$(dirname "$0")/.."
attn=${ATTN:-build/release/bin/attn}
model=${MODEL:-smollm2}
text=${TEXT:-../shared/assets/text/wikitext2-valid.txt}
context=${CONTEXT:-8192}

score() {
  # shellcheck disable=SC2086
  "$attn" score "$model" "$text" "$@" ${ARGUMENTS:-} | sed -n '1s/,.*//p' | tr -d '\n'
}

case ${1:-} in
  streaming)
    tokens=${2:-8192}
    step=${3:-64}
    printf 'all %s tokens: ' "$tokens"
    score --max-length "$tokens" --window "$tokens"
    echo
    for sinks in 0 1 2 4 8; do
      printf 'cache of 1024, %s sinks: ' "$sinks"
      score --max-length "$tokens" --window 1024 --sinks "$sinks" --step "$step"
      echo
    done
    printf 'window of 1024, run again every 512: '
    score --max-length "$tokens" --window 1024 --step 512
    echo
    ;;
  rope)
    shift
    [ $# -gt 0 ] || set -- 2 4
    for factor; do
      tokens=$((factor * context))
      for kind in none linear ntk dynamic yarn; do
        printf '%s tokens, %s: ' "$tokens" "$kind:$factor"
        score --max-length "$tokens" --window "$tokens" --rope-scaling "$kind:$factor"
        echo
      done
    done
    ;;
  *)
    sed -n '2,11s/^# \{0,1\}//p' "$0" >&2
    exit 2
    ;;
esac
