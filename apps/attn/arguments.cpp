// The only file that includes CLI11: it costs ten seconds to compile.
#include "arguments.h"

#include <CLI/CLI.hpp>
#include <sstream>
#include <stdexcept>

#include "head_columns.h"
#include "layers.h"

namespace attn::cli {

namespace {

constexpr const char* kExamples = R"eg(Examples:
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

constexpr const char* kRunExamples = R"eg(Examples:
  attn run minilm "A cat sleeps." "A kitten naps." "Stocks fell."
  attn run minilm -f sentences.txt            one text a line; empty lines are skipped
  echo "A cat sleeps." | attn run minilm --json
  attn run ./my-bert "A cat sleeps." --json --hidden
  attn run minilm -- "--a text that begins with a dash")eg";

constexpr const char* kLookExamples = R"eg(Examples:
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

constexpr const char* kGenerateExamples = R"eg(Examples:
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

constexpr const char* kHeadsExamples = R"eg(Examples:
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

constexpr const char* kTranslateExamples = R"eg(Examples:
  attn translate ./opus-mt-en-fr "A dog runs across the meadow."
  attn translate ./opus-mt-en-fr -f english.txt --beams 4       one sentence a line, in and out
  attn translate ./t5-small "translate English to German: A dog runs." --max-tokens 40
  attn translate ./bart-large-cnn "$(cat report.txt)" --length-penalty 2 --json

What is not given is as the model's generation_config.json asks for. Models that continue a text,
as LLaMA, are for attn generate.)eg";

constexpr const char* kScoreExamples = R"eg(Examples:
  attn score smollm2 article.txt
  attn score smollm2 article.txt --window 512 --step 256 --json > losses.json
  attn score smollm2 article.txt --ablate 4.2,5.1 --ablate-with mean
  attn score smollm2 book.txt --window 1024 --sinks 4 --step 64
  attn score smollm2 book.txt --window 16384 --step 8192 --rope-scaling yarn:2 --max-length 16384

Perplexity is e to the mean loss: as many tokens as the model wavers between. Every token but the
first is scored once, from those before it in its window. With --sinks the text runs once, through a
cache of --window tokens that keeps the first and the last (StreamingLLM), --step of them at a time.)eg";

constexpr const char* kExplainExamples = R"eg(Examples:
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

constexpr const char* kBenchExamples = R"eg(Examples:
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

constexpr const char* kCurvesExamples = R"eg(Examples:
  attn curves                                   all mechanisms, minutes
  attn curves causal window linear --last 16384 --threads 1
  attn curves -o curves                         also writes curves.csv and curves.svg
  attn curves gla rwkv6 --json

Forward, one sequence. A mechanism ends with the point that takes --seconds. The exponent is that of
the length in the time, by least squares from 2,048 tokens on over points above 1 ms; memory is what
is resident above inputs and outputs.)eg";

constexpr const char* kGetExamples = R"eg(Examples:
  attn get                       list the models that are known by name
  attn get minilm                obtain one into the cache
  cd "$(attn get minilm --path)"
  attn get minilm --offline      only look into the cache)eg";

constexpr const char* kDoctorExamples = R"eg(Examples:
  attn doctor
  attn doctor --json > report.json)eg";

constexpr const char* kRopeScaling =
    "Stretch rotary positions past the model's context, as yarn:4 (linear, ntk, dynamic, yarn; "
    "none: only the limit)";

// CLI11's messages may span lines and end with a full stop or not; ours are one line.
[[noreturn]] void reject(const std::string& command, std::string what) {
  while (!what.empty() && (what.back() == '\n' || what.back() == '.' || what.back() == ' ')) {
    what.pop_back();
  }
  throw std::invalid_argument((command.empty() ? "" : command + ": ") + what + "; see attn " +
                              (command.empty() ? "" : command + " ") + "--help");
}

std::string command_name(const CLI::App& app) {
  const auto parsed = app.get_subcommands();
  return parsed.empty() ? "" : parsed.front()->get_name();
}

// What CLI11 could not place: a mistyped option, a mistyped command, one text too many.
[[noreturn]] void reject_extra(const CLI::App& app, const std::string& extra) {
  const std::string command = command_name(app);
  if (extra.size() > 1 && extra.front() == '-') {
    reject(command, "unknown option '" + extra + "' (a text that begins with '-' goes after --)");
  }
  if (command.empty()) {
    std::string known;
    for (const CLI::App* sub : app.get_subcommands({})) {
      known += (known.empty() ? "" : ", ") + sub->get_name();
    }
    reject(command, "unknown command '" + extra + "', must be one of " + known);
  }
  reject(command, "unexpected argument '" + extra + "' (quote a text that has spaces)");
}

}  // namespace

bool BenchOptions::plain() const {
  const BenchOptions none;
  return shapes.empty() && mechanisms.empty() && mask == none.mask && score == none.score &&
         dtype == none.dtype && kv_dtype.empty() && !decode && !backward && !ragged &&
         dropout == 0 && cache == none.cache && observe == none.observe;
}

Command parse(int argc, const char* const* argv) {
  CLI::App app("attn: run a model, see what every head attends to, plan exact attention.", "attn");
  Common common;
  RunOptions run;
  LookOptions look;
  GenerateOptions generate;
  ScoreCommand score;
  HeadsOptions heads;
  TranslateOptions translate;
  ExplainOptions explain;
  BenchOptions bench;
  CurvesOptions curves;
  GetOptions get;
  DoctorOptions doctor;

  app.require_subcommand(0, 1);
  app.set_version_flag("--version", std::string("attn ") + version(), "Print the version and exit");
  app.set_help_flag("-h,--help", "Print this help and exit");
  app.add_option("--threads", common.threads, "Threads (default: as many as this process may use)")
      ->check(CLI::Range(1, 4096).description(""))
      ->type_name("N");
  app.add_option(
         "--isa", common.isa,
         "Instruction set of the attention kernels (dense products and layer helpers choose "
         "their own): automatic, scalar, avx2, avx512, neon")
      ->type_name("NAME");
  app.add_flag("--json", common.json, "Print JSON instead of text");
  app.footer(kExamples);
  // After the settings that subcommands inherit, which must refuse extras through the parent.
  const auto add = [&](const char* name, const char* what, const char* examples) {
    CLI::App* sub = app.add_subcommand(name, what);
    sub->fallthrough();
    sub->footer(std::string(examples) +
                "\n\n--threads N, --isa NAME and --json may follow every command.");
    return sub;
  };

  CLI::App* sub = add("run", "Embed texts and compare them", kRunExamples);
  sub->add_option("model", run.model, "Folder in Hugging Face layout, or a known name (attn get)")
      ->required()
      ->type_name("MODEL");
  sub->add_option("text", run.texts, "Texts; without any and without -f: standard input")
      ->type_name("TEXT");
  sub->add_option("-f,--file", run.file, "File with one text a line ('-': standard input)")
      ->type_name("FILE");
  sub->add_flag("--hidden", run.hidden, "With --json: also the last hidden states");
  sub->add_flag("--offline", run.offline, "Never download; use only the cache");

  sub = add("look", "Write a page that shows what every head attends to", kLookExamples);
  sub->add_option("model", look.model,
                  "Folder in Hugging Face layout, GGUF file, or a known name (attn get)")
      ->required()
      ->type_name("MODEL");
  sub->add_option("text", look.text, "One text; without it and without -f: standard input")
      ->type_name("TEXT");
  sub->add_option("-f,--file", look.file, "File with the text ('-': standard input)")
      ->type_name("FILE");
  sub->add_option("--pair", look.pair, "A second text, read as a pair with the first")
      ->type_name("TEXT");
  sub->add_option("--target", look.target,
                  "Look at this translation (default: the encoder-decoder's own)")
      ->type_name("TEXT");
  sub->add_option("--max-length", look.max_length, "Truncate to N tokens (default: the model's)")
      ->check(CLI::Range(1, 1 << 24).description(""))
      ->type_name("N");
  std::string layers;
  sub->add_option("--layers", layers, "Only these layers, as 0,5,10-12 (default: all)")
      ->type_name("LIST");
  std::string global_tokens;
  sub->add_option("--global-tokens", global_tokens,
                  "Longformer: tokens that see, and are seen by, all of the text (default: 0)")
      ->type_name("LIST");
  sub->add_option("-o,--output", look.output, "The page")->type_name("FILE")->capture_default_str();
  sub->add_option("--findings", look.findings,
                  "Print N findings about the heads on standard output, before the page's path "
                  "(default: 3, on standard error)")
      ->check(CLI::Range(0, 10000).description(""))
      ->type_name("N");
  sub->add_flag("--offline", look.offline, "Never download; use only the cache");

  sub = add("generate", "Let a language model continue a text", kGenerateExamples);
  sub->add_option("model", generate.model,
                  "Folder in Hugging Face layout, GGUF file, or a known name (attn get)")
      ->required()
      ->type_name("MODEL");
  sub->add_option("prompt", generate.texts,
                  "The text to continue, or several; without any and without -f: standard input")
      ->type_name("PROMPT");
  sub->add_option("-f,--file", generate.file, "File with the prompt ('-': standard input)")
      ->type_name("FILE");
  sub->add_flag("--lines", generate.lines, "The file has a prompt a line; empty lines are skipped");
  sub->add_option("--side-by-side", generate.how.side_by_side,
                  "Of several prompts, run so many at a time: memory grows with them")
      ->check(CLI::Range(1, 1 << 24).description(""))
      ->type_name("N")
      ->capture_default_str();
  const CLI::Option* const max_tokens =
      sub->add_option("-n,--max-tokens", generate.how.max_tokens, "Generate at most N tokens")
          ->check(CLI::Range(1, 1 << 24).description(""))
          ->type_name("N")
          ->capture_default_str();
  SamplerOptions& sampler = generate.how.sampler;
  sub->add_option("--temperature", sampler.temperature,
                  "Draw tokens, from probabilities at this temperature; 0: take the most probable")
      ->type_name("T")
      ->capture_default_str();
  sub->add_option("--top-k", sampler.top_k, "Draw from the K most probable tokens")->type_name("K");
  sub->add_option("--top-p", sampler.top_p,
                  "Draw from the fewest tokens that have this probability together")
      ->type_name("P");
  sub->add_option("--min-p", sampler.min_p,
                  "Draw from tokens with this share of the most probable's probability")
      ->type_name("P");
  sub->add_option("--repetition-penalty", sampler.repetition_penalty,
                  "Make tokens less probable that are there already (above 1)")
      ->type_name("R");
  sub->add_option("--seed", sampler.seed, "The same seed gives the same text")
      ->type_name("N")
      ->capture_default_str();
  sub->add_option("--stop", generate.how.stop, "End where this text begins; may be repeated")
      ->allow_extra_args(false)
      ->type_name("TEXT");
  sub->add_option("--kv-cache", generate.cache,
                  "Type of cached keys and values: float32, bfloat16, int8")
      ->check(CLI::IsMember({"float32", "bfloat16", "int8"}).description(""))
      ->type_name("TYPE")
      ->capture_default_str();
  sub->add_option("--rope-scaling", generate.rope_scaling, kRopeScaling)->type_name("KIND:FACTOR");
  const CLI::Option* const window =
      sub->add_option("--window", generate.how.window,
                      "Remember N tokens, the first and the last, and go on past the context")
          ->check(CLI::Range(1, 1 << 24).description(""))
          ->type_name("N");
  const CLI::Option* const sinks =
      sub->add_option("--sinks", generate.how.sinks, "With --window: how many of the first")
          ->check(CLI::Range(0, 1 << 24).description(""))
          ->type_name("N")
          ->capture_default_str();
  sub->add_flag("--chat", generate.chat, "The prompt is a question to an instruct model (ChatML)");
  sub->add_option("--system", generate.system, "With --chat: what the model is told first")
      ->type_name("TEXT");
  sub->add_option(
         "--observe", generate.observe,
         "Write where every head looked at each new token: FILE.json, or the page FILE.html")
      ->type_name("FILE");
  sub->add_flag("--offline", generate.offline, "Never download; use only the cache");

  sub = add("score", "Say how well a language model foresees a text", kScoreExamples);
  sub->add_option("model", score.model,
                  "Folder in Hugging Face layout, GGUF file, or a known name (attn get)")
      ->required()
      ->type_name("MODEL");
  sub->add_option("file", score.file, "File with the text ('-': standard input)")
      ->required()
      ->type_name("FILE");
  sub->add_option("--window", score.how.window,
                  "Tokens that are seen at once (default: 2048, or the model's positions)")
      ->check(CLI::Range(2, 1 << 24).description(""))
      ->type_name("N");
  sub->add_option("--step", score.how.step,
                  "Tokens from one window to the next (default: half a window; with --sinks 1)")
      ->check(CLI::Range(1, 1 << 24).description(""))
      ->type_name("N");
  sub->add_option("--sinks", score.how.sinks,
                  "Run once, with a cache of --window tokens: the first N and the last others")
      ->check(CLI::Range(0, 1 << 24).description(""))
      ->type_name("N");
  sub->add_option("--rope-scaling", score.rope_scaling, kRopeScaling)->type_name("KIND:FACTOR");
  sub->add_option("--max-length", score.max_length, "Score only the first N tokens")
      ->check(CLI::Range(2, 1 << 30).description(""))
      ->type_name("N");
  const CLI::Option* const ablate =
      sub->add_option("--ablate", score.ablate, "Also score without these heads, counted from 0")
          ->type_name("LAYER.HEAD,...");
  const CLI::Option* const ablate_with =
      sub->add_option("--ablate-with", score.ablate_with,
                      "What stands in their place: zero, or their mean over this text")
          ->check(CLI::IsMember({"zero", "mean"}).description(""))
          ->type_name("WHAT")
          ->capture_default_str();
  sub->add_option("--kv-cache", score.cache,
                  "Type of cached keys and values: float32, bfloat16, int8")
      ->check(CLI::IsMember({"float32", "bfloat16", "int8"}).description(""))
      ->type_name("TYPE")
      ->capture_default_str();
  sub->add_flag("--offline", score.offline, "Never download; use only the cache");

  sub =
      add("heads", "Say in numbers what every head of a model does over a corpus", kHeadsExamples);
  sub->add_option("model", heads.model,
                  "Folder in Hugging Face layout, GGUF file, or a known name (attn get)")
      ->required()
      ->type_name("MODEL");
  sub->add_option("files", heads.files, "Texts; without any: standard input")->type_name("FILE");
  sub->add_option("--length", heads.length,
                  "Tokens of a document (default: 1024, or as many as the model takes; with "
                  "--sinks: 64)")
      ->check(CLI::Range(2, 1 << 24).description(""))
      ->type_name("N");
  sub->add_option("--documents", heads.documents,
                  "Read the first N documents at most (default: 20; with --sinks: 100)")
      ->check(CLI::Range(1, 1 << 24).description(""))
      ->type_name("N");
  sub->add_option(
         "--target", heads.target,
         "Of an encoder-decoder: file with a target a line (default: its own translations)")
      ->type_name("FILE");
  sub->add_flag("--ablation", heads.ablation,
                "Also the loss that each head saves: one more run a head and document");
  sub->add_flag("--sinks", heads.sinks,
                "Instead: how many heads have a sink at the first token of natural, random and "
                "repeated tokens");
  sub->add_option("--sort", heads.sort, "Largest first, by a measure as --csv names it")
      ->type_name("NAME");
  sub->add_flag("--csv", heads.csv, "Print CSV instead of a table");
  sub->add_flag("--offline", heads.offline, "Never download; use only the cache");

  sub = add("translate", "Let an encoder-decoder translate texts", kTranslateExamples);
  sub->add_option("model", translate.model,
                  "Folder of a T5, BART or Marian model, or of CTranslate2's")
      ->required()
      ->type_name("MODEL");
  sub->add_option("text", translate.text, "The text; without it and without -f: standard input")
      ->type_name("TEXT");
  sub->add_option("-f,--file", translate.file, "File with one text a line ('-': standard input)")
      ->type_name("FILE");
  sub->add_option("--beams", translate.how.beams, "Texts that run side by side; 1: greedy")
      ->check(CLI::Range(1, 1024).description(""))
      ->type_name("N");
  sub->add_option("--length-penalty", translate.how.length_penalty,
                  "Above 1 prefers longer texts, below 1 shorter ones")
      ->type_name("P");
  sub->add_option("-n,--max-tokens", translate.how.max_tokens, "At most N tokens a text")
      ->check(CLI::Range(1, 1 << 24).description(""))
      ->type_name("N");
  sub->add_flag("--offline", translate.offline, "Never download; use only the cache");

  sub = add("explain", "Say what an attention call would do and cost, or what a mechanism is",
            kExplainExamples);
  sub->add_option("mechanism", explain.mechanism,
                  "A mechanism or topic to explain in place of a call; without it and --shape, all "
                  "are listed")
      ->type_name("MECHANISM");
  sub->add_option("--shape", explain.shape,
                  "Batch, query heads, key/value heads, query and key length, head width")
      ->type_name("B,Hq,Hkv,Lq,Lk,D");
  sub->add_option("--mask", explain.mask,
                  "full, causal, window:LEFT,RIGHT, prefix:N, documents:..., joined by & and |")
      ->type_name("MASK")
      ->capture_default_str();
  sub->add_option("--score", explain.score, "none, alibi, softcap:C, scale:S, joined by +")
      ->type_name("SCORE")
      ->capture_default_str();
  sub->add_option("--dtype", explain.dtype, "float32 or float64")
      ->check(CLI::IsMember({"float32", "float64"}).description(""))
      ->type_name("TYPE")
      ->capture_default_str();
  sub->add_option("--value-width", explain.value_width, "Width of a value (default: D)")
      ->check(CLI::Range(1, 1024).description(""))
      ->type_name("N");
  sub->add_option("--query-start", explain.query_start, "Position of query 0")
      ->type_name("N")
      ->capture_default_str();
  sub->add_option("--cells", explain.cells, "Longest side of the mask's picture")
      ->check(CLI::Range(1, 512).description(""))
      ->type_name("N")
      ->capture_default_str();
  bool no_time = false;
  sub->add_flag("--no-time", no_time, "Do not measure; leave the expected time out");

  sub = add("bench", "Measure attention against this machine's ceilings", kBenchExamples);
  sub->add_option("--shape", bench.shapes,
                  "Batch, query heads, key/value heads, query and key length, width of a key, of a "
                  "value (default: of a key); may be repeated")
      ->allow_extra_args(false)
      ->type_name("B,Hq,Hkv,Lq,Lk,D[,Dv]");
  sub->add_option("--mechanism", bench.mechanisms,
                  "Another mechanism than exact attention with --mask and --score; may be repeated "
                  "(attn explain lists them)")
      ->allow_extra_args(false)
      ->type_name("NAME");
  sub->add_option("--mask", bench.mask,
                  "full, causal, window:LEFT,RIGHT, prefix:N, documents:..., joined by & and |")
      ->type_name("MASK")
      ->capture_default_str();
  sub->add_option("--score", bench.score, "none, alibi, softcap:C, scale:S, joined by +")
      ->type_name("SCORE")
      ->capture_default_str();
  sub->add_option("--dtype", bench.dtype,
                  "Type of queries and outputs: float32, float64, bfloat16, float16")
      ->check(CLI::IsMember({"float32", "float64", "bfloat16", "float16"}).description(""))
      ->type_name("TYPE")
      ->capture_default_str();
  sub->add_option("--kv-dtype", bench.kv_dtype,
                  "Type of keys and values, int8 too (default: as --dtype)")
      ->check(CLI::IsMember({"float32", "float64", "bfloat16", "float16", "int8"}).description(""))
      ->type_name("TYPE");
  sub->add_option("--cache", bench.cache, "How keys and values lie: contiguous or paged")
      ->check(CLI::IsMember({"contiguous", "paged"}).description(""))
      ->type_name("LAYOUT")
      ->capture_default_str();
  sub->add_flag("--decode", bench.decode,
                "Queries are the last tokens, keys come from memory: share of the lower of two "
                "ceilings, multiply-adds and reading");
  sub->add_flag("--backward", bench.backward,
                "The gradients of queries, keys and values alone, counted as 2.5 times the forward "
                "operations; float32 or float64");
  sub->add_flag("--ragged", bench.ragged, "Sequence b of B has b/B of the lengths, one call");
  sub->add_option("--dropout", bench.dropout, "Drop probabilities with this chance")
      ->type_name("P");
  sub->add_option("--observe", bench.observe, "Also answer questions: one-pass, two-pass, all")
      ->check(CLI::IsMember({"none", "one-pass", "two-pass", "all"}).description(""))
      ->type_name("WHAT")
      ->capture_default_str();
  sub->add_option("--samples", bench.samples, "Samples of each row (default: 15)")
      ->check(CLI::Range(1, 10000).description(""))
      ->type_name("N");
  sub->add_flag("--quick", bench.quick, "5 samples; with --standard no long rows");
  const CLI::Option* standard =
      sub->add_option("--standard", bench.groups,
                      "The standard table, or groups of it, on every instruction set")
          ->expected(0, 20)
          ->type_name("[GROUP ...]");
  sub->add_option("-o,--output", bench.output, "Also write the rows to this file, as JSON")
      ->type_name("FILE");

  sub = add("curves", "Measure time and memory of mechanisms against the length", kCurvesExamples);
  sub->add_option("mechanism", curves.mechanisms, "Mechanisms; none: all (attn explain lists them)")
      ->type_name("MECHANISM");
  sub->add_option("--heads", curves.heads, "Heads")
      ->check(CLI::Range(1, 1024).description(""))
      ->type_name("N")
      ->capture_default_str();
  sub->add_option("--width", curves.width, "Width of a head")
      ->check(CLI::Range(1, 1024).description(""))
      ->type_name("N")
      ->capture_default_str();
  sub->add_option("--first", curves.first, "Shortest length, doubled from there on")
      ->check(CLI::Range(1, 1 << 24).description(""))
      ->type_name("N")
      ->capture_default_str();
  sub->add_option("--last", curves.last, "Longest length")
      ->check(CLI::Range(1, 1 << 24).description(""))
      ->type_name("N")
      ->capture_default_str();
  sub->add_option("--seconds", curves.seconds, "A mechanism ends with the point that takes this")
      ->type_name("S")
      ->capture_default_str();
  sub->add_option("-o,--output", curves.output, "Also write STEM.csv and STEM.svg")
      ->type_name("STEM");

  sub = add("get", "Obtain a model by name, or list the known ones", kGetExamples);
  sub->add_option("name", get.name, "Name of a known model; none: list them")->type_name("NAME");
  sub->add_flag("--path", get.path_only, "Print only the model's folder");
  sub->add_flag("--offline", get.offline, "Never download; use only the cache");

  add("doctor", "Describe this build and machine: what to paste into a bug report",
      kDoctorExamples);

  app.allow_extras();
  try {
    app.parse(argc, argv);
  } catch (const CLI::Success& answer) {  // --help, --version
    std::ostringstream out;
    app.exit(answer, out, out);
    return Answer{out.str()};
  } catch (const CLI::ParseError& error) {
    const auto extras = app.remaining();
    if (command_name(app).empty() && !extras.empty()) reject_extra(app, extras.front());
    reject(command_name(app), error.what());
  }
  for (const std::string& extra : app.remaining(true)) {
    if (extra != "--") reject_extra(app, extra);
  }

  const std::string command = command_name(app);
  if (command.empty())
    reject("",
           "a command is needed: run, look, generate, score, heads, translate, explain, bench, "
           "curves, "
           "get or doctor");
  isa_from_name(common.isa);
  if (command == "run") {
    if (!run.texts.empty() && !run.file.empty()) reject(command, "give texts or -f, not both");
    if (run.hidden && !common.json) reject(command, "--hidden needs --json");
    run.common = common;
    return run;
  }
  if (command == "look") {
    if (look.text && !look.file.empty()) reject(command, "give a text or -f, not both");
    if (!layers.empty()) look.layers = parse_list(command, "--layers", layers);
    if (!global_tokens.empty()) {
      look.global_tokens = parse_list(command, "--global-tokens", global_tokens);
    }
    look.common = common;
    return look;
  }
  if (command == "generate") {
    if (!generate.texts.empty() && !generate.file.empty())
      reject(command, "give prompts or -f, not both");
    if (generate.lines && !generate.texts.empty()) reject(command, "--lines needs -f");
    if (sinks->count() > 0 && window->count() == 0) reject(command, "--sinks needs --window");
    if (!generate.system.empty() && !generate.chat) reject(command, "--system needs --chat");
    if (!generate.observe.empty() && !generate.observe.ends_with(".json") &&
        !generate.observe.ends_with(".html")) {
      reject(command, "--observe '" + generate.observe + "' must end in .json or .html");
    }
    if (!generate.observe.empty() && window->count() > 0)
      reject(command, "--observe does not go with --window, which moves keys");
    generate.max_tokens_given = max_tokens->count() > 0;
    generate.common = common;
    return generate;
  }
  if (command == "score") {
    if (ablate_with->count() > 0 && ablate->count() == 0)
      reject(command, "--ablate-with needs --ablate");
    score.common = common;
    return score;
  }
  if (command == "translate") {
    if (translate.text && !translate.file.empty()) reject(command, "give a text or -f, not both");
    translate.common = common;
    return translate;
  }
  if (command == "heads") {
    if (heads.csv && common.json) reject(command, "give --csv or --json, not both");
    if (heads.sinks && (heads.csv || heads.ablation || !heads.sort.empty()))
      reject(command, "--sinks has a table of its own, without --csv, --ablation and --sort");
    if (!heads.sort.empty()) head_column(heads.sort);
    if (heads.sort == "ablation" && !heads.ablation)
      reject(command, "--sort ablation needs --ablation");
    if (heads.files.empty()) heads.files = {"-"};
    heads.common = common;
    return heads;
  }
  if (command == "explain") {
    const ExplainOptions none;
    const bool of_a_call =
        explain.mask != none.mask || explain.score != none.score || explain.query_start != 0;
    if (of_a_call && !explain.mechanism.empty())
      reject(command, "a mechanism has no --mask, --score or --query-start");
    if (of_a_call && explain.shape.empty()) reject(command, "--shape is required");
    explain.measure = !no_time;
    explain.common = common;
    return explain;
  }
  if (command == "bench") {
    bench.standard = standard->count() > 0;
    std::erase(bench.groups, "");  // what CLI11 makes of no group
    if (bench.standard && !bench.plain()) {
      reject(command, "--standard brings its own shapes and options");
    }
    bench.common = common;
    return bench;
  }
  if (command == "curves") {
    if (curves.first > curves.last) reject(command, "--first is above --last");
    curves.common = common;
    return curves;
  }
  if (command == "get") {
    if (get.name.empty() && get.path_only) reject(command, "--path needs the name of a model");
    get.common = common;
    return get;
  }
  doctor.common = common;
  return doctor;
}

}  // namespace attn::cli
