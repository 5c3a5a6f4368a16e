// The only file that includes CLI11: it costs ten seconds to compile.
#include "arguments.h"

#include <CLI/CLI.hpp>
#include <functional>
#include <memory>
#include <sstream>
#include <stdexcept>
#include <utility>

#include "examples.h"
#include "head_columns.h"
#include "layers.h"

namespace attn::cli {

namespace {

constexpr int kMany = 1 << 24;

// CLI11's messages may span lines and end with a full stop or not; ours are one line.
[[noreturn]] void reject(const std::string& command, std::string what) {
  while (!what.empty() && (what.back() == '\n' || what.back() == '.' || what.back() == ' ')) {
    what.pop_back();
  }
  throw std::invalid_argument((command.empty() ? "" : command + ": ") + what + "; see attn " +
                              (command.empty() ? "" : command + " ") + "--help");
}

// What several commands take.

CLI::Option* add_number(CLI::App* to, const char* names, auto& value, const char* what,
                        int least = 1, int most = kMany) {
  return to->add_option(names, value, what)
      ->check(CLI::Range(least, most).description(""))
      ->type_name("N");
}

CLI::Option* add_choice(CLI::App* to, const char* names, std::string& value, const char* what,
                        const char* type, std::vector<std::string> choices) {
  return to->add_option(names, value, what)
      ->check(CLI::IsMember(std::move(choices)).description(""))
      ->type_name(type);
}

void add_model(CLI::App* to, std::string& model,
               const char* what =
                   "Folder in Hugging Face layout, GGUF file, or a known name "
                   "(attn get)") {
  to->add_option("model", model, what)->required()->type_name("MODEL");
}

void add_file(CLI::App* to, std::string& file, const char* what) {
  to->add_option("-f,--file", file, what)->type_name("FILE");
}

void add_offline(CLI::App* to, bool& offline) {
  to->add_flag("--offline", offline, "Never download; use only the cache");
}

void add_kv_cache(CLI::App* to, std::string& type) {
  add_choice(to, "--kv-cache", type, "Type of cached keys and values: float32, bfloat16, int8",
             "TYPE", {"float32", "bfloat16", "int8"})
      ->capture_default_str();
}

void add_rope_scaling(CLI::App* to, std::string& scaling) {
  to->add_option("--rope-scaling", scaling,
                 "Stretch rotary positions past the model's context, as yarn:4 (linear, ntk, "
                 "dynamic, yarn; none: only the limit)")
      ->type_name("KIND:FACTOR");
}

void add_mask_and_score(CLI::App* to, std::string& mask, std::string& score) {
  to->add_option("--mask", mask,
                 "full, causal, window:LEFT,RIGHT, prefix:N, documents:..., joined by & and |")
      ->type_name("MASK")
      ->capture_default_str();
  to->add_option("--score", score, "none, alibi, softcap:C, scale:S, joined by +")
      ->type_name("SCORE")
      ->capture_default_str();
}

// A command of its own: `finish` makes of what was parsed what the command runs on, or rejects it.
struct Subcommand {
  CLI::App* app = nullptr;
  std::function<Command(const Common&)> finish;
};

CLI::App* add_command(CLI::App& app, const char* name, const char* what, const char* examples) {
  CLI::App* sub = app.add_subcommand(name, what);
  sub->fallthrough();
  sub->footer(std::string(examples) +
              "\n\n--threads N, --isa NAME and --json may follow every command.");
  return sub;
}

// `check` throws when options do not go together, and may set what follows from them.
template <class Options, class Check>
Subcommand finished(CLI::App* app, std::shared_ptr<Options> options, const Check& check) {
  return {app, [options, check](const Common& common) -> Command {
            options->common = common;
            check(*options);
            return *options;
          }};
}

Subcommand add_run(CLI::App& app) {
  CLI::App* sub = add_command(app, "run", "Embed texts and compare them", kRunExamples);
  const auto run = std::make_shared<RunOptions>();
  add_model(sub, run->model, "Folder in Hugging Face layout, or a known name (attn get)");
  sub->add_option("text", run->texts, "Texts; without any and without -f: standard input")
      ->type_name("TEXT");
  add_file(sub, run->file, "File with one text a line ('-': standard input)");
  sub->add_flag("--hidden", run->hidden, "With --json: also the last hidden states");
  add_offline(sub, run->offline);
  return finished(sub, run, [](const RunOptions& o) {
    if (!o.texts.empty() && !o.file.empty()) reject("run", "give texts or -f, not both");
    if (o.hidden && !o.common.json) reject("run", "--hidden needs --json");
  });
}

Subcommand add_look(CLI::App& app) {
  CLI::App* sub =
      add_command(app, "look", "Write a page that shows what every head attends to", kLookExamples);
  const auto look = std::make_shared<LookOptions>();
  const auto layers = std::make_shared<std::string>(),
             global_tokens = std::make_shared<std::string>();
  add_model(sub, look->model);
  sub->add_option("text", look->text, "One text; without it and without -f: standard input")
      ->type_name("TEXT");
  add_file(sub, look->file, "File with the text ('-': standard input)");
  sub->add_option("--pair", look->pair, "A second text, read as a pair with the first")
      ->type_name("TEXT");
  sub->add_option("--target", look->target,
                  "Look at this translation (default: the encoder-decoder's own)")
      ->type_name("TEXT");
  add_number(sub, "--max-length", look->max_length, "Truncate to N tokens (default: the model's)");
  sub->add_option("--layers", *layers, "Only these layers, as 0,5,10-12 (default: all)")
      ->type_name("LIST");
  sub->add_option("--global-tokens", *global_tokens,
                  "Longformer: tokens that see, and are seen by, all of the text (default: 0)")
      ->type_name("LIST");
  sub->add_option("-o,--output", look->output, "The page")
      ->type_name("FILE")
      ->capture_default_str();
  add_number(sub, "--findings", look->findings,
             "Print N findings about the heads on standard output, before the page's path "
             "(default: 3, on standard error)",
             0, 10000);
  add_offline(sub, look->offline);
  return finished(sub, look, [layers, global_tokens](LookOptions& o) {
    if (o.text && !o.file.empty()) reject("look", "give a text or -f, not both");
    if (!layers->empty()) o.layers = parse_list("look", "--layers", *layers);
    if (!global_tokens->empty())
      o.global_tokens = parse_list("look", "--global-tokens", *global_tokens);
  });
}

Subcommand add_generate(CLI::App& app) {
  CLI::App* sub =
      add_command(app, "generate", "Let a language model continue a text", kGenerateExamples);
  const auto generate = std::make_shared<GenerateOptions>();
  GenerationOptions& how = generate->how;
  add_model(sub, generate->model);
  sub->add_option("prompt", generate->texts,
                  "The text to continue, or several; without any and without -f: standard input")
      ->type_name("PROMPT");
  add_file(sub, generate->file, "File with the prompt ('-': standard input)");
  sub->add_flag("--lines", generate->lines,
                "The file has a prompt a line; empty lines are skipped");
  add_number(sub, "--side-by-side", how.side_by_side,
             "Of several prompts, run so many at a time: memory grows with them")
      ->capture_default_str();
  const CLI::Option* const max_tokens =
      add_number(sub, "-n,--max-tokens", how.max_tokens, "Generate at most N tokens")
          ->capture_default_str();
  sub->add_option("--temperature", how.sampler.temperature,
                  "Draw tokens, from probabilities at this temperature; 0: take the most probable")
      ->type_name("T")
      ->capture_default_str();
  sub->add_option("--top-k", how.sampler.top_k, "Draw from the K most probable tokens")
      ->type_name("K");
  sub->add_option("--top-p", how.sampler.top_p,
                  "Draw from the fewest tokens that have this probability together")
      ->type_name("P");
  sub->add_option("--min-p", how.sampler.min_p,
                  "Draw from tokens with this share of the most probable's probability")
      ->type_name("P");
  sub->add_option("--repetition-penalty", how.sampler.repetition_penalty,
                  "Make tokens less probable that are there already (above 1)")
      ->type_name("R");
  sub->add_option("--seed", how.sampler.seed, "The same seed gives the same text")
      ->type_name("N")
      ->capture_default_str();
  sub->add_option("--stop", how.stop, "End where this text begins; may be repeated")
      ->allow_extra_args(false)
      ->type_name("TEXT");
  add_kv_cache(sub, generate->cache);
  add_rope_scaling(sub, generate->rope_scaling);
  const CLI::Option* const window =
      add_number(sub, "--window", how.window,
                 "Remember N tokens, the first and the last, and go on past the context");
  const CLI::Option* const sinks =
      add_number(sub, "--sinks", how.sinks, "With --window: how many of the first", 0)
          ->capture_default_str();
  sub->add_flag("--chat", generate->chat, "The prompt is a question to an instruct model (ChatML)");
  sub->add_option("--system", generate->system, "With --chat: what the model is told first")
      ->type_name("TEXT");
  sub->add_option(
         "--observe", generate->observe,
         "Write where every head looked at each new token: FILE.json, or the page FILE.html")
      ->type_name("FILE");
  add_offline(sub, generate->offline);
  return finished(sub, generate, [max_tokens, window, sinks](GenerateOptions& o) {
    if (!o.texts.empty() && !o.file.empty()) reject("generate", "give prompts or -f, not both");
    if (o.lines && !o.texts.empty()) reject("generate", "--lines needs -f");
    if (sinks->count() > 0 && window->count() == 0) reject("generate", "--sinks needs --window");
    if (!o.system.empty() && !o.chat) reject("generate", "--system needs --chat");
    if (!o.observe.empty() && !o.observe.ends_with(".json") && !o.observe.ends_with(".html"))
      reject("generate", "--observe '" + o.observe + "' must end in .json or .html");
    if (!o.observe.empty() && window->count() > 0)
      reject("generate", "--observe does not go with --window, which moves keys");
    o.max_tokens_given = max_tokens->count() > 0;
  });
}

Subcommand add_score(CLI::App& app) {
  CLI::App* sub =
      add_command(app, "score", "Say how well a language model foresees a text", kScoreExamples);
  const auto score = std::make_shared<ScoreCommand>();
  add_model(sub, score->model);
  sub->add_option("file", score->file, "File with the text ('-': standard input)")
      ->required()
      ->type_name("FILE");
  add_number(sub, "--window", score->how.window,
             "Tokens that are seen at once (default: 2048, or the model's positions)", 2);
  add_number(sub, "--step", score->how.step,
             "Tokens from one window to the next (default: half a window; with --sinks 1)");
  add_number(sub, "--sinks", score->how.sinks,
             "Run once, with a cache of --window tokens: the first N and the last others", 0);
  add_rope_scaling(sub, score->rope_scaling);
  add_number(sub, "--max-length", score->max_length, "Score only the first N tokens", 2, 1 << 30);
  const CLI::Option* const ablate =
      sub->add_option("--ablate", score->ablate, "Also score without these heads, counted from 0")
          ->type_name("LAYER.HEAD,...");
  const CLI::Option* const ablate_with =
      add_choice(sub, "--ablate-with", score->ablate_with,
                 "What stands in their place: zero, or their mean over this text", "WHAT",
                 {"zero", "mean"})
          ->capture_default_str();
  add_kv_cache(sub, score->cache);
  add_offline(sub, score->offline);
  return finished(sub, score, [ablate, ablate_with](const ScoreCommand&) {
    if (ablate_with->count() > 0 && ablate->count() == 0)
      reject("score", "--ablate-with needs --ablate");
  });
}

Subcommand add_heads(CLI::App& app) {
  CLI::App* sub = add_command(
      app, "heads", "Say in numbers what every head of a model does over a corpus", kHeadsExamples);
  const auto heads = std::make_shared<HeadsOptions>();
  add_model(sub, heads->model);
  sub->add_option("files", heads->files, "Texts; without any: standard input")->type_name("FILE");
  add_number(sub, "--length", heads->length,
             "Tokens of a document (default: 1024, or as many as the model takes; with "
             "--sinks: 64)",
             2);
  add_number(sub, "--documents", heads->documents,
             "Read the first N documents at most (default: 20; with --sinks: 100)");
  sub->add_option(
         "--target", heads->target,
         "Of an encoder-decoder: file with a target a line (default: its own translations)")
      ->type_name("FILE");
  sub->add_flag("--ablation", heads->ablation,
                "Also the loss that each head saves: one more run a head and document");
  sub->add_flag("--sinks", heads->sinks,
                "Instead: how many heads have a sink at the first token of natural, random and "
                "repeated tokens");
  sub->add_option("--sort", heads->sort, "Largest first, by a measure as --csv names it")
      ->type_name("NAME");
  sub->add_flag("--csv", heads->csv, "Print CSV instead of a table");
  add_offline(sub, heads->offline);
  return finished(sub, heads, [](HeadsOptions& o) {
    if (o.csv && o.common.json) reject("heads", "give --csv or --json, not both");
    if (o.sinks && (o.csv || o.ablation || !o.sort.empty()))
      reject("heads", "--sinks has a table of its own, without --csv, --ablation and --sort");
    if (!o.sort.empty()) head_column(o.sort);
    if (o.sort == "ablation" && !o.ablation) reject("heads", "--sort ablation needs --ablation");
    if (o.files.empty()) o.files = {"-"};
  });
}

Subcommand add_translate(CLI::App& app) {
  CLI::App* sub =
      add_command(app, "translate", "Let an encoder-decoder translate texts", kTranslateExamples);
  const auto translate = std::make_shared<TranslateOptions>();
  add_model(sub, translate->model, "Folder of a T5, BART or Marian model, or of CTranslate2's");
  sub->add_option("text", translate->text, "The text; without it and without -f: standard input")
      ->type_name("TEXT");
  add_file(sub, translate->file, "File with one text a line ('-': standard input)");
  add_number(sub, "--beams", translate->how.beams, "Texts that run side by side; 1: greedy", 1,
             1024);
  sub->add_option("--length-penalty", translate->how.length_penalty,
                  "Above 1 prefers longer texts, below 1 shorter ones")
      ->type_name("P");
  add_number(sub, "-n,--max-tokens", translate->how.max_tokens, "At most N tokens a text");
  add_offline(sub, translate->offline);
  return finished(sub, translate, [](const TranslateOptions& o) {
    if (o.text && !o.file.empty()) reject("translate", "give a text or -f, not both");
  });
}

Subcommand add_explain(CLI::App& app) {
  CLI::App* sub = add_command(
      app, "explain", "Say what an attention call would do and cost, or what a mechanism is",
      kExplainExamples);
  const auto explain = std::make_shared<ExplainOptions>();
  sub->add_option("mechanism", explain->mechanism,
                  "A mechanism or topic to explain in place of a call; without it and --shape, all "
                  "are listed")
      ->type_name("MECHANISM");
  sub->add_option("--shape", explain->shape,
                  "Batch, query heads, key/value heads, query and key length, head width")
      ->type_name("B,Hq,Hkv,Lq,Lk,D");
  add_mask_and_score(sub, explain->mask, explain->score);
  add_choice(sub, "--dtype", explain->dtype, "float32 or float64", "TYPE", {"float32", "float64"})
      ->capture_default_str();
  add_number(sub, "--value-width", explain->value_width, "Width of a value (default: D)", 1, 1024);
  sub->add_option("--query-start", explain->query_start, "Position of query 0")
      ->type_name("N")
      ->capture_default_str();
  add_number(sub, "--cells", explain->cells, "Longest side of the mask's picture", 1, 512)
      ->capture_default_str();
  sub->add_flag_callback(
      "--no-time", [explain] { explain->measure = false; },
      "Do not measure; leave the expected time out");
  return finished(sub, explain, [](const ExplainOptions& o) {
    const ExplainOptions none;
    const bool of_a_call = o.mask != none.mask || o.score != none.score || o.query_start != 0;
    if (of_a_call && !o.mechanism.empty())
      reject("explain", "a mechanism has no --mask, --score or --query-start");
    if (of_a_call && o.shape.empty()) reject("explain", "--shape is required");
  });
}

Subcommand add_bench(CLI::App& app) {
  CLI::App* sub = add_command(app, "bench", "Measure attention against this machine's ceilings",
                              kBenchExamples);
  const auto bench = std::make_shared<BenchOptions>();
  sub->add_option("--shape", bench->shapes,
                  "Batch, query heads, key/value heads, query and key length, width of a key, of a "
                  "value (default: of a key); may be repeated")
      ->allow_extra_args(false)
      ->type_name("B,Hq,Hkv,Lq,Lk,D[,Dv]");
  sub->add_option("--mechanism", bench->mechanisms,
                  "Another mechanism than exact attention with --mask and --score; may be repeated "
                  "(attn explain lists them)")
      ->allow_extra_args(false)
      ->type_name("NAME");
  add_mask_and_score(sub, bench->mask, bench->score);
  add_choice(sub, "--dtype", bench->dtype,
             "Type of queries and outputs: float32, float64, bfloat16, float16", "TYPE",
             {"float32", "float64", "bfloat16", "float16"})
      ->capture_default_str();
  add_choice(sub, "--kv-dtype", bench->kv_dtype,
             "Type of keys and values, int8 too (default: as --dtype)", "TYPE",
             {"float32", "float64", "bfloat16", "float16", "int8"});
  add_choice(sub, "--cache", bench->cache, "How keys and values lie: contiguous or paged", "LAYOUT",
             {"contiguous", "paged"})
      ->capture_default_str();
  sub->add_flag("--decode", bench->decode,
                "Queries are the last tokens, keys come from memory: share of the lower of two "
                "ceilings, multiply-adds and reading");
  sub->add_flag("--backward", bench->backward,
                "The gradients of queries, keys and values alone, counted as 2.5 times the forward "
                "operations; float32 or float64");
  sub->add_flag("--ragged", bench->ragged, "Sequence b of B has b/B of the lengths, one call");
  sub->add_option("--dropout", bench->dropout, "Drop probabilities with this chance")
      ->type_name("P");
  add_choice(sub, "--observe", bench->observe, "Also answer questions: one-pass, two-pass, all",
             "WHAT", {"none", "one-pass", "two-pass", "all"})
      ->capture_default_str();
  add_number(sub, "--samples", bench->samples, "Samples of each row (default: 15)", 1, 10000);
  sub->add_flag("--quick", bench->quick, "5 samples; with --standard no long rows");
  const CLI::Option* const standard =
      sub->add_option("--standard", bench->groups,
                      "The standard table, or groups of it, on every instruction set")
          ->expected(0, 20)
          ->type_name("[GROUP ...]");
  sub->add_option("-o,--output", bench->output, "Also write the rows to this file, as JSON")
      ->type_name("FILE");
  return finished(sub, bench, [standard](BenchOptions& o) {
    o.standard = standard->count() > 0;
    std::erase(o.groups, "");  // what CLI11 makes of no group
    if (o.standard && !o.plain()) reject("bench", "--standard brings its own shapes and options");
  });
}

Subcommand add_curves(CLI::App& app) {
  CLI::App* sub = add_command(
      app, "curves", "Measure time and memory of mechanisms against the length", kCurvesExamples);
  const auto curves = std::make_shared<CurvesOptions>();
  sub->add_option("mechanism", curves->mechanisms,
                  "Mechanisms; none: all (attn explain lists them)")
      ->type_name("MECHANISM");
  add_number(sub, "--heads", curves->heads, "Heads", 1, 1024)->capture_default_str();
  add_number(sub, "--width", curves->width, "Width of a head", 1, 1024)->capture_default_str();
  add_number(sub, "--first", curves->first, "Shortest length, doubled from there on")
      ->capture_default_str();
  add_number(sub, "--last", curves->last, "Longest length")->capture_default_str();
  sub->add_option("--seconds", curves->seconds, "A mechanism ends with the point that takes this")
      ->type_name("S")
      ->capture_default_str();
  sub->add_option("-o,--output", curves->output, "Also write STEM.csv and STEM.svg")
      ->type_name("STEM");
  return finished(sub, curves, [](const CurvesOptions& o) {
    if (o.first > o.last) reject("curves", "--first is above --last");
  });
}

Subcommand add_get(CLI::App& app) {
  CLI::App* sub =
      add_command(app, "get", "Obtain a model by name, or list the known ones", kGetExamples);
  const auto get = std::make_shared<GetOptions>();
  sub->add_option("name", get->name, "Name of a known model; none: list them")->type_name("NAME");
  sub->add_flag("--path", get->path_only, "Print only the model's folder");
  add_offline(sub, get->offline);
  return finished(sub, get, [](const GetOptions& o) {
    if (o.name.empty() && o.path_only) reject("get", "--path needs the name of a model");
  });
}

Subcommand add_doctor(CLI::App& app) {
  CLI::App* sub =
      add_command(app, "doctor", "Describe this build and machine: what to paste into a bug report",
                  kDoctorExamples);
  return finished(sub, std::make_shared<DoctorOptions>(), [](const DoctorOptions&) {});
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
  app.require_subcommand(0, 1);
  app.set_version_flag("--version", std::string("attn ") + version(), "Print the version and exit");
  app.set_help_flag("-h,--help", "Print this help and exit");
  add_number(&app, "--threads", common.threads,
             "Threads (default: as many as this process may use)", 1, 4096);
  app.add_option(
         "--isa", common.isa,
         "Instruction set of the attention kernels (dense products and layer helpers choose "
         "their own): automatic, scalar, avx2, avx512, neon")
      ->type_name("NAME");
  app.add_flag("--json", common.json, "Print JSON instead of text");
  app.footer(kExamples);
  // After the settings that they inherit, before allow_extras(): the parent refuses extras.
  const Subcommand subcommands[] = {add_run(app),     add_look(app),  add_generate(app),
                                    add_score(app),   add_heads(app), add_translate(app),
                                    add_explain(app), add_bench(app), add_curves(app),
                                    add_get(app),     add_doctor(app)};
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
  for (const Subcommand& sub : subcommands) {
    if (!sub.app->parsed()) continue;
    isa_from_name(common.isa);
    return sub.finish(common);
  }
  reject("",
         "a command is needed: run, look, generate, score, heads, translate, explain, bench, "
         "curves, get or doctor");
}

}  // namespace attn::cli
