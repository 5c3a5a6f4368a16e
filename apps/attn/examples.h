// How every command is called, by example: what --help ends with.
#pragma once

namespace attn::cli {

inline constexpr const char* kExamples = R"eg(Examples:
  attn run minilm "A cat sleeps." "A kitten naps." "Stocks fell."
  attn look minilm "The animal did not cross the street because it was tired." -o page.html
  attn generate smollm2 "The capital of France is"
  attn score smollm2 article.txt
  attn heads smollm2 book.txt --sort induction
  attn translate ./opus-mt-en-fr "A dog runs."
  attn explain --shape 1,32,8,8192,8192,128 --mask causal --score alibi
  attn explain gla
  attn bench --shape 1,32,8,4096,4096,128 --mask causal
  attn curves causal window linear gla
  attn get minilm
  attn doctor

`attn COMMAND --help` shows the options and examples of one command.)eg";

inline constexpr const char* kRunExamples = R"eg(Examples:
  attn run minilm "A cat sleeps." "A kitten naps." "Stocks fell."
  attn run minilm -f sentences.txt            one text a line; empty lines are skipped
  echo "A cat sleeps." | attn run minilm --json
  attn run ./my-bert "A cat sleeps." --json --hidden
  attn run minilm -- "--a text that begins with a dash")eg";

inline constexpr const char* kLookExamples = R"eg(Examples:
  attn look minilm "The cat sat on the mat because it was tired."
  attn look minilm "A man plays." --pair "Someone makes music." -o pair.html
  attn look minilm -f letter.txt --max-length 128 --findings 10
  attn look smollm2 "The capital of France is Paris."
  attn look smollm2 -f chapter.txt --layers 0,5,10-12
  attn look ./longformer-base-4096 -f report.txt --global-tokens 0-11
  attn look ./opus-mt-en-fr "A dog runs." --json          translates, and looks at the translation
  attn look ./opus-mt-en-fr "A dog runs." --target "Un chien court."
  xdg-open "$(attn look minilm 'What does it look at?')"

The page of an encoder-decoder has three tabs: encoder, decoder, and cross, where tokens of the target
look at those of the source.)eg";

inline constexpr const char* kGenerateExamples = R"eg(Examples:
  attn generate smollm2 "The capital of France is" --max-tokens 20
  attn generate smollm2 --chat "Why is the sky blue?" --temperature 0.7 --top-p 0.9 --seed 1
  attn generate smollm2 -f story.txt --stop "The end" --kv-cache bfloat16
  attn generate smollm2 "One prompt" "and another" "side by side"
  attn generate smollm2 -f prompts.txt --lines --json
  attn generate smollm2 -f book.txt --rope-scaling yarn:4      a longer context
  attn generate smollm2 -f book.txt --window 1024 --sinks 4    no limit: only these are remembered
  attn generate model.gguf "Once upon a time" --json
  attn generate smollm2 "Once upon a time" -n 40 --observe story.html

Text appears as it is generated, and at the end, on standard error, how fast that was. Without
--temperature the most probable token is taken each time. --observe writes where every head looked
when each token was chosen: as JSON (top keys and their weights, entropy, mass on the first token), or
as a page that follows the generation.)eg";

inline constexpr const char* kHeadsExamples = R"eg(Examples:
  attn heads smollm2 book.txt
  attn heads smollm2 *.txt --sort induction | head -12
  attn heads smollm2 book.txt --documents 4 --length 256 --ablation --csv > heads.csv
  attn heads smollm2 book.txt --sinks
  attn heads minilm letters.txt --json
  attn heads ./opus-mt-en-fr english.txt --target french.txt

Masses and entropies are means over the tokens of all documents. 'share' is the entropy over the
largest possible, 'first' the mass on the first token, 'sink' the share of documents in which that
is above 0.3, 'distance' in tokens. 'rep-prev', 'duplicate' and 'induction' are the mass on the
token before, on the same token and on the one that followed it, on 100 random tokens that come
twice. 'even' is a head that spreads evenly: what the others are to be compared with.

Of an encoder-decoder every line is a document; encoder, decoder and cross have tables of their own.
In cross tokens of the target look at those of the source.)eg";

inline constexpr const char* kTranslateExamples = R"eg(Examples:
  attn translate ./opus-mt-en-fr "A dog runs across the meadow."
  attn translate ./opus-mt-en-fr -f english.txt --beams 4       one sentence a line, in and out
  attn translate ./t5-small "translate English to German: A dog runs." --max-tokens 40
  attn translate ./bart-large-cnn "$(cat report.txt)" --length-penalty 2 --json

What is not given is as the model's generation_config.json asks for. Models that continue a text,
as LLaMA, are for attn generate.)eg";

inline constexpr const char* kScoreExamples = R"eg(Examples:
  attn score smollm2 article.txt
  attn score smollm2 article.txt --window 512 --step 256 --json > losses.json
  attn score smollm2 article.txt --ablate 4.2,5.1 --ablate-with mean
  attn score smollm2 book.txt --window 1024 --sinks 4 --step 64
  attn score smollm2 book.txt --window 16384 --step 8192 --rope-scaling yarn:2 --max-length 16384

Perplexity is e to the mean loss: as many tokens as the model wavers between. Every token but the
first is scored once, from those before it in its window. With --sinks the text runs once, through a
cache of --window tokens that keeps the first and the last (StreamingLLM), --step of them at a time.)eg";

inline constexpr const char* kExplainExamples = R"eg(Examples:
  attn explain --shape 1,12,12,2048,2048,64
  attn explain --shape 1,32,8,4096,4096,128 --mask causal --score alibi
  attn explain --shape 1,8,8,8192,8192,64 --mask window:255,0 --threads 1
  attn explain --shape 2,8,8,512,512,64 --mask "causal & (window(63, 0) | global(0))"
  attn explain --shape 1,8,8,1,4096,64 --mask causal --query-start 4095 --json
  attn explain                   list the mechanisms
  attn explain gla               what it is, and what it costs here
  attn explain rwkv --shape 1,32,32,4096,4096,64 --threads 1

Of a mechanism the text is that of docs/mechanisms.md. Times are measured at the shape's length and
scaled by operations to others; from where on it is faster than causal exact attention is measured
too, up to the shape's length. --no-time leaves both out.)eg";

inline constexpr const char* kBenchExamples = R"eg(Examples:
  attn bench                               ceilings and a few shapes, about 20 seconds
  attn bench --shape 1,12,12,2048,2048,64 --shape 1,8,8,4096,4096,128 --mask causal
  attn bench --shape 1x8x8x8192x8192x64 --mask "causal & window:255,0" --threads 1 --isa avx2
  attn bench --decode --shape 1,32,8,1,32768,128 --kv-dtype int8
  attn bench --backward --shape 1,32,8,2048,2048,128 --mask causal
  attn bench --ragged --shape 8,12,12,512,512,64
  attn bench --observe one-pass --json
  attn bench --mechanism gla --mechanism rwkv6 --shape 1,12,12,8192,8192,64
  attn bench --mechanism linear --decode   one step of a state
  attn bench --standard forward decode     groups of the standard table; none: all of it

A share is the time that the ceilings allow over the time taken, fastest sample and best ceiling;
ceilings are measured before and after every sample. What is not plain (stored small, paged,
ragged, with dropout, observed) is timed in turns with its plain form; 'vs' is its time relative to
that. Other mechanisms are timed in turns with causal exact attention of the same shape, and of a
step of their state the ceiling is multiplying as many bytes in place. Memory is what it takes above
inputs, outputs and gradients.)eg";

inline constexpr const char* kCurvesExamples = R"eg(Examples:
  attn curves                                   all mechanisms, minutes
  attn curves causal window linear --last 16384 --threads 1
  attn curves -o curves                         also writes curves.csv and curves.svg
  attn curves gla rwkv6 --json

Forward, one sequence. A mechanism ends with the point that takes --seconds. The exponent is that of
the length in the time, by least squares from 2,048 tokens on over points above 1 ms; memory is what
is resident above inputs and outputs.)eg";

inline constexpr const char* kGetExamples = R"eg(Examples:
  attn get                       list the models that are known by name
  attn get minilm                obtain one into the cache
  cd "$(attn get minilm --path)"
  attn get minilm --offline      only look into the cache)eg";

inline constexpr const char* kDoctorExamples = R"eg(Examples:
  attn doctor
  attn doctor --json > report.json)eg";

}  // namespace attn::cli
