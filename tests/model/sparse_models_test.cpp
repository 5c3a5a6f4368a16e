// Longformer and BigBird against Transformers (tests/data/sparse_models.json, sparse_layers.json),
// on weights made by the formula of tools/golden_families.py.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <span>
#include <string>
#include <vector>

#include "attn/error.h"
#include "attn/heads.h"
#include "attn/inspect.h"
#include "attn/longformer.h"
#include "attn/model.h"
#include "folder.h"
#include "golden_models.h"
#include "inspect/rows.h"
#include "model/families.h"
#include "model/recorder.h"
#include "model/text_pattern.h"
#include "weights_file.h"

namespace attn {
namespace {

using testing::HasSubstr;

const Json& golden() {
  static const Json json = read_golden("sparse_models.json");
  return json;
}

std::vector<std::int64_t> integers(const Json& list) {
  std::vector<std::int64_t> out;
  for (const Json& x : list.items) out.push_back(x.integer);
  return out;
}

// A model of the file and its texts.
class Case {
 public:
  explicit Case(std::size_t index) : given_(golden().find("cases")->items[index]), made_(given_) {}

  const Transformer& model() const { return made_.model; }
  const std::vector<Json>& runs() const { return given_.find("runs")->items; }
  void add(const Json& run, PackedTexts& texts) const {
    texts.add(ids_of(*run.find("ids")), ids_of(*run.find("types")));
    if (model().config().global_tokens)
      texts.global_tokens.push_back(integers(*run.find("global_tokens")));
  }

 private:
  const Json& given_;
  GoldenTransformer made_;
};

std::size_t case_named(const std::string& name) {
  const auto& names = golden().find("cases")->names;
  return static_cast<std::size_t>(std::find(names.begin(), names.end(), name) - names.begin());
}

class SparseModel : public testing::TestWithParam<std::size_t> {};
INSTANTIATE_TEST_SUITE_P(Transformers, SparseModel,
                         testing::Range(std::size_t{0}, golden().find("cases")->names.size()));

// One text after another in one pack, so that each is where the others would disturb it.
TEST_P(SparseModel, AgreesWithTransformers) {
  SCOPED_TRACE(golden().find("cases")->names[GetParam()]);
  const Case c(GetParam());
  PackedTexts texts;
  for (const Json& run : c.runs()) c.add(run, texts);
  const auto hidden = c.model().hidden(texts, Context({.threads = 2}));
  const auto width = static_cast<std::size_t>(c.model().config().width);
  ASSERT_EQ(hidden.size(), texts.ids.size() * width);
  std::size_t first = 0;
  for (std::size_t t = 0; t < c.runs().size(); ++t) {
    const auto tokens = static_cast<std::size_t>(texts.lengths[t]);
    expect_rows(c.runs()[t], "hidden", std::span(hidden).subspan(first * width, tokens * width),
                tokens);
    first += tokens;
  }
}

// What a record says of a layer is what the run itself saw, and watching changes no bit.
TEST_P(SparseModel, RecordsWhatItsHeadsRead) {
  SCOPED_TRACE(golden().find("cases")->names[GetParam()]);
  const Case c(GetParam());
  const TransformerConfig& config = c.model().config();
  const Context context({.threads = 1});
  for (const Json& run : c.runs()) {
    PackedTexts texts;
    c.add(run, texts);
    const std::int64_t n = texts.tokens(), heads = config.heads;
    if (n > 200) continue;
    const std::vector<std::int64_t> queries = integers(*run.find("rows"));
    const auto count = static_cast<std::int64_t>(queries.size());
    std::vector<std::vector<float>> seen;  // a layer: [heads][queries][n]
    AttentionRecord record;
    record.heads = record.kv_heads = heads;
    record.tokens.resize(static_cast<std::size_t>(n));
    const auto ask = [&](std::int64_t) {
      auto& rows = seen.emplace_back(static_cast<std::size_t>(heads * count * n));
      return Observed{
          .rows = {.queries = queries, .probabilities = {rows.data(), Shape{1, heads, count, n}}}};
    };
    const auto see = [&](const SeenAttention& layer) {
      LayerRecord& recorded = record.layers.emplace_back(record_layer(layer, n, config, context));
      recorded.mask =
          text_mask(config, c.model().attention(layer.layer).mask, n, texts.globals_of(0));
      recorded.score = c.model().attention(layer.layer).score;
      record.width = layer.head_width;
    };
    EXPECT_EQ(c.model().hidden(texts, context, {.ask = ask, .see = see}),
              c.model().hidden(texts, context));
    inspect::check_record(record, "test");
    std::vector<double> row(static_cast<std::size_t>(n));
    for (std::size_t l = 0; l < record.layers.size(); ++l) {
      for (int h = 0; h < heads; ++h) {
        inspect::HeadRows of_head(record, static_cast<int>(l), h);
        for (std::int64_t q = 0; q < count; ++q) {
          of_head.row(queries[static_cast<std::size_t>(q)], row.data());
          const float* got = seen[l].data() + (h * count + q) * n;
          for (std::int64_t k = 0; k < n; ++k)
            ASSERT_NEAR(row[static_cast<std::size_t>(k)], got[k], 1e-5)
                << l << " " << h << " " << k;
        }
      }
    }
  }
}

// Rows of probabilities as Transformers returns them.
TEST(LongformerModel, ShowsTheAttentionOfTransformers) {
  const Case c(case_named("longformer"));
  const auto run = std::find_if(c.runs().begin(), c.runs().end(),
                                [](const Json& r) { return r.find("global_row") != nullptr; });
  ASSERT_NE(run, c.runs().end());
  PackedTexts texts;
  c.add(*run, texts);
  const std::int64_t n = texts.tokens(), heads = c.model().config().heads;
  const std::vector<std::int64_t> globals = texts.global_tokens[0];
  std::vector<float> rows(static_cast<std::size_t>(heads * 2 * n));
  const auto ask = [&](std::int64_t) {  // the last layer's answer stays
    return Observed{.rows = {.queries = {globals[1], 60},
                             .probabilities = {rows.data(), Shape{1, heads, 2, n}}}};
  };
  c.model().hidden(texts, Context({.threads = 1}), {.ask = ask});
  const float *global = rows.data() + 2 * n, *local = global + n;  // head 1
  expect_close(global, *run->find("global_row"), "global row");
  const Json& expected = *run->find("row_60");
  const auto all = static_cast<std::int64_t>(expected.items.size()),
             first = static_cast<std::int64_t>(globals.size()), w = (all - first - 1) / 2;
  double sum = 0;
  for (std::int64_t i = 0; i < all; ++i) {
    const std::int64_t key =
        i < first ? globals[static_cast<std::size_t>(i)] : 60 - w + (i - first);
    const double p = expected.items[static_cast<std::size_t>(i)].real;
    if (p > 0) {  // else it is outside the text, or counted as a global token
      EXPECT_NEAR(local[key], p, 1e-5) << key;
      sum += local[key];
    }
  }
  EXPECT_NEAR(sum, 1, 1e-5);
}

TEST(LongformerModel, WeighsValuesOfGlobalRowsByTheirOwnProjection) {
  const Case c(case_named("longformer, prefix"));
  PackedTexts texts;
  c.add(c.runs()[1], texts);
  const TransformerConfig& config = c.model().config();
  const std::int64_t n = texts.tokens(), heads = config.heads;
  std::vector<float> weighted(static_cast<std::size_t>(heads * n));
  std::vector<float> outputs;
  AttentionWatch watch;
  watch.ask = [&](std::int64_t) {
    return Observed{.value_weighted = {weighted.data(), Shape{1, heads, n, 1}}};
  };
  watch.outputs = [&](std::int64_t, std::int64_t tokens, float* out) {
    outputs.assign(out, out + tokens * heads * config.value_width);
  };
  c.model().hidden(texts, Context({.threads = 1}), watch);
  // Mixed values are no larger than what is mixed; equal only where one key has all the weight.
  for (std::int64_t h = 0; h < heads; ++h) {
    for (std::int64_t i = 0; i < n; ++i) {
      double square = 0;
      for (std::int64_t d = 0; d < config.value_width; ++d) {
        const double x =
            outputs[static_cast<std::size_t>((i * heads + h) * config.value_width + d)];
        square += x * x;
      }
      EXPECT_GE(weighted[static_cast<std::size_t>(h * n + i)], std::sqrt(square) - 1e-5)
          << h << " " << i;
    }
  }
}

TEST(LongformerModel, RefusesGlobalTokensThatAreNotThere) {
  const Case c(case_named("longformer")), other(case_named("big_bird"));
  const Context context({.threads = 1});
  const auto message = [&](const Case& model, const std::vector<std::int64_t>& tokens) {
    PackedTexts texts;
    texts.add(std::vector<std::int32_t>{3, 4, 5}, {});
    texts.global_tokens = {tokens};
    return message_of<std::invalid_argument>([&] { model.model().hidden(texts, context); });
  };
  EXPECT_EQ(message(c, {0, 2}), "");
  EXPECT_EQ(message(c, {}), "");
  EXPECT_THAT(message(c, {3}), HasSubstr("global token 3 of sequence 0 is past its 3 tokens"));
  EXPECT_THAT(message(c, {-1}), HasSubstr("global token -1"));
  EXPECT_THAT(message(c, {1, 0}), HasSubstr("does not follow"));
  EXPECT_THAT(message(other, {0}), HasSubstr("has no global tokens"));
}

// A folder as people have it, with a vocabulary of the model's size.
class SparseFolder {
 public:
  explicit SparseFolder(const std::string& name) {
    const Json& given = golden().find("cases")->items[case_named(name)];
    folder_.write("config.json", config_of(given));
    folder_.write("model.safetensors", made_weights(shapes_of(*given.find("tensors"))));
    std::string vocabulary = "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\n";
    for (int i = 5; i < 101; ++i) vocabulary += "w" + std::to_string(i) + "\n";
    folder_.write("vocab.txt", vocabulary);
  }
  Model load() const { return Model::load(folder_.path(), Context({.threads = 1})); }

 private:
  TestFolder folder_;
};

std::string words(int count) {
  std::string text;
  for (int i = 0; i < count; ++i) text += "w" + std::to_string(5 + i * 37 % 96) + " ";
  return text;
}

TEST(LongformerFolder, TakesItsGlobalTokensFromTheText) {
  const SparseFolder folder("longformer");
  const Model model = folder.load();
  EXPECT_EQ(model.info().family, "longformer");
  Encoding text = model.encode(words(50));
  ASSERT_EQ(text.ids.size(), 52U);
  const auto by_default = model.hidden(text);
  text.global_tokens = {{0}};
  EXPECT_EQ(model.hidden(text), by_default);
  EXPECT_EQ(model.embed(std::vector<Encoding>{text, model.encode(words(7))}).size(), 2U);
  text.global_tokens = {{0, 20}};
  EXPECT_NE(model.hidden(text), by_default);
  text.global_tokens.emplace();
  EXPECT_NE(model.hidden(text), by_default);
  for (const auto& wrong : {std::vector<std::int64_t>{52}, {-1}, {3, 3}}) {
    text.global_tokens = wrong;
    EXPECT_THROW(model.hidden(text), std::invalid_argument);
    EXPECT_THROW(model.record(text), std::invalid_argument);
  }
  const SparseFolder other("big_bird");
  text.global_tokens = {{0}};
  EXPECT_THAT(message_of<std::invalid_argument>([&] { other.load().embed({{text}}); }),
              HasSubstr("[embed] the model has no global tokens"));
}

TEST(SparseFolders, AreLookedInto) {
  for (const char* name : {"longformer", "big_bird", "big_bird, full"}) {
    SCOPED_TRACE(name);
    const SparseFolder folder(name);
    const Model model = folder.load();
    const std::vector<std::string> texts = {words(60), words(9)};
    const AttentionRecord record = model.record(model.encode(texts[0]));
    const Context context({.threads = 1});
    const auto heads = head_statistics(record, context);
    EXPECT_EQ(heads.size(), 6U);
    // Over a corpus of that text, the same heads have the same entropy.
    const HeadTable table = measure_heads(model, std::span(texts).first(1), {});
    ASSERT_EQ(table.heads.size(), heads.size());
    for (std::size_t i = 0; i < heads.size(); ++i)
      EXPECT_NEAR(table.heads[i].entropy, heads[i].entropy, 1e-5) << i;
    // An even head of a layer spreads over what its mask shows.
    double even = 0;
    const Geometry geometry{.q_len = 62, .k_len = 62};
    for (std::int64_t q = 0; q < 62; ++q) {
      std::int64_t visible = 0;
      for (const Interval& i : model.mask(1, 62).row(geometry, 0, 0, q)) visible += i.end - i.begin;
      even += std::log(static_cast<double>(visible)) / 62;
    }
    EXPECT_NEAR(table.uniform[1].entropy, even, 1e-6);
    EXPECT_NO_THROW(measure_heads(model, texts, {}));
    EXPECT_THROW(model.mask(2, 5), std::invalid_argument);
  }
}

std::string config_error(const std::string& config) {
  const TestFolder folder;
  Weights weights(folder.write("model.safetensors", safetensors_of({})));
  return message_of<Error>([&] { load_described(config, "config.json", weights); });
}

TEST(SparseConfig, NamesWhatItDoesNotKnow) {
  const auto with = [](const std::string& type, const std::string& more) {
    return R"({"model_type":")" + type +
           R"(","hidden_act":"gelu","hidden_size":8,"intermediate_size":8,"max_position_embeddings":9,)"
           R"("num_attention_heads":2,"num_hidden_layers":2,"vocab_size":9)" +
           more + "}";
  };
  const std::pair<const char*, const char*> longformers[] = {
      {"", "attention_window is missing"},
      {R"(,"attention_window":[8,8])", "embeddings.word_embeddings.weight"},
      {R"(,"attention_window":8)", "embeddings.word_embeddings.weight"},
      {R"(,"attention_window":[8])", "attention_window has 1 entries for 2 layers"},
      {R"(,"attention_window":7)", "attention_window is 7, must be an even number"},
      {R"(,"attention_window":[8,0])", "attention_window is 0"},
      {R"(,"attention_window":[8,-2])", "attention_window is -2"},
      {R"(,"attention_window":99999999999)", "attention_window is 99999999999"},
      {R"(,"attention_window":"8")", "attention_window holds a string"},
      {R"(,"attention_window":8,"attention_mode":"tvm")", "attention_mode \"tvm\""},
      {R"(,"attention_window":8,"ignore_attention_mask":true)", "ignore_attention_mask is true"},
      {R"(,"attention_window":8,"attention_dilation":[1,2])", "attention_dilation is not known"},
      {R"(,"attention_window":8,"architectures":["BertModel"])", "names \"BertModel\""},
  };
  for (const auto& [more, wanted] : longformers)
    EXPECT_THAT(config_error(with("longformer", more)), HasSubstr(wanted)) << more;
  const std::pair<const char*, const char*> bigbirds[] = {
      {"", "embeddings.word_embeddings.weight"},
      {R"(,"attention_type":"original_full","block_size":64)", "word_embeddings.weight"},
      {R"(,"attention_type":"dense")", "attention_type \"dense\" is not known"},
      {R"(,"block_size":0)", "block_size is 0"},
      {R"(,"num_random_blocks":-1)", "num_random_blocks is -1"},
      {R"(,"num_random_blocks":1025)", "num_random_blocks is 1025"},
      {R"(,"is_decoder":true)", "is_decoder is true"},
      {R"(,"architectures":["BigBirdForCausalLM"])", "names \"BigBirdForCausalLM\""},
  };
  for (const auto& [more, wanted] : bigbirds)
    EXPECT_THAT(config_error(with("big_bird", more)), HasSubstr(wanted)) << more;
}

// Single layers, in double precision.
constexpr std::int64_t kWidth = 24, kHeads = 2, kHeadWidth = kWidth / kHeads;

const Json& layer_golden(const std::string& name) {
  static const Json json = read_golden("sparse_layers.json");
  return *json.find("cases")->find(name);
}

std::vector<double> formula(const std::string& name, std::int64_t count) {
  std::vector<double> out;
  for (std::int64_t i = 0; i < count; ++i)
    out.push_back(uniform(hash(name), static_cast<std::uint64_t>(i)));
  return out;
}

// x [rows][kWidth] projected by the named layer, as [heads][rows][kHeadWidth].
std::vector<double> projected(const std::vector<double>& x, const std::string& name) {
  const auto rows = static_cast<std::int64_t>(x.size()) / kWidth;
  std::vector<double> w = formula(name + ".weight", kWidth * kWidth),
                      b = formula(name + ".bias", kWidth), out(x.size());
  for (double& e : w) e = static_cast<float>(e * 1.7 / std::sqrt(60.0));
  for (double& e : b) e = static_cast<float>(e * 0.25);
  for (std::int64_t i = 0; i < rows; ++i) {
    for (std::int64_t o = 0; o < kWidth; ++o) {
      double sum = b[static_cast<std::size_t>(o)];
      for (std::int64_t j = 0; j < kWidth; ++j) {
        sum += w[static_cast<std::size_t>(o * kWidth + j)] *
               x[static_cast<std::size_t>(i * kWidth + j)];
      }
      out[static_cast<std::size_t>(((o / kHeadWidth) * rows + i) * kHeadWidth + o % kHeadWidth)] =
          sum;
    }
  }
  return out;
}

void expect_rows(const std::vector<double>& out, const Json& layer, double bound) {
  const std::int64_t n = layer.find("length")->integer;
  const auto& rows = layer.find("rows")->items;
  for (std::size_t r = 0; r < rows.size(); ++r) {
    const std::int64_t row = rows[r].integer;
    for (std::int64_t j = 0; j < kWidth; ++j) {
      EXPECT_NEAR(
          out[static_cast<std::size_t>(((j / kHeadWidth) * n + row) * kHeadWidth + j % kHeadWidth)],
          layer.find("out")->items[r].items[static_cast<std::size_t>(j)].real, bound)
          << row << " " << j;
    }
  }
}

TEST(LongformerLayer, IsThatOfTransformers) {
  for (const char* name : {"longformer", "longformer, odd length", "longformer, no global token"}) {
    SCOPED_TRACE(name);
    const Json& layer = layer_golden(name);
    const std::int64_t n = layer.find("length")->integer;
    const std::vector<std::int64_t> tokens = integers(*layer.find("global_tokens"));
    const std::vector<double> x = formula("x", n * kWidth), q = projected(x, "query"),
                              k = projected(x, "key"), v = projected(x, "value"),
                              global_k = projected(x, "key_global"),
                              global_v = projected(x, "value_global");
    std::vector<double> picked;
    for (const std::int64_t t : tokens)
      picked.insert(picked.end(), x.begin() + t * kWidth, x.begin() + (t + 1) * kWidth);
    const std::vector<double> global_q = projected(picked, "query_global");
    const Shape shape{1, kHeads, n, kHeadWidth};
    std::vector<double> out(x.size());
    LongformerInputs inputs{{q.data(), shape}, {k.data(), shape}, {v.data(), shape}};
    inputs.global_q = {global_q.data(),
                       Shape{1, kHeads, static_cast<std::int64_t>(tokens.size()), kHeadWidth}};
    inputs.global_k = {global_k.data(), shape};
    inputs.global_v = {global_v.data(), shape};
    LongformerPlan(AttentionShape::of(inputs.q, inputs.k, inputs.v),
                   {.window = layer.find("window")->integer, .global_tokens = {tokens}}, Context())
        .run(inputs, {.out = {out.data(), shape}});
    expect_rows(out, layer, 1e-7);  // its softmax is in float32
  }
}

struct Heads {
  explicit Heads(const Json& layer)
      : n(layer.find("length")->integer),
        shape{1, kHeads, n, kHeadWidth},
        x(formula("x", n * kWidth)),
        q(projected(x, "query")),
        k(projected(x, "key")),
        v(projected(x, "value")),
        out(x.size()) {}
  void run(const AttentionOptions& options) {
    attention({q.data(), shape}, {k.data(), shape}, {v.data(), shape}, {out.data(), shape},
              options);
  }

  std::int64_t n;
  Shape shape;
  std::vector<double> x, q, k, v, out;
};

// In evaluation: no random block, the first one 1 + random times.
TEST(BigBirdLayer, CountsItsFirstBlockInEvaluation) {
  const Json& layer = layer_golden("big_bird");
  const std::int64_t block = layer.find("block")->integer, random = layer.find("random")->integer;
  Heads heads(layer);
  std::vector<double> bias(static_cast<std::size_t>(heads.n * heads.n));
  for (std::int64_t i = block; i < heads.n - block; ++i) {
    for (std::int64_t j = 0; j < block; ++j)
      bias[static_cast<std::size_t>(i * heads.n + j)] = std::log(1.0 + static_cast<double>(random));
  }
  AttentionOptions options{.mask = Mask::bigbird(block, 0)};
  options.score.bias = {bias.data(), Shape{1, 1, heads.n, heads.n}};
  heads.run(options);
  expect_rows(heads.out, layer, 1e-12);
}

// In training: the blocks that it drew, as a list.
TEST(BigBirdLayer, SeesTheBlocksThatWereDrawn) {
  const Json& layer = layer_golden("big_bird, drawn");
  const std::int64_t block = layer.find("block")->integer;
  Heads heads(layer);
  std::vector<Mask> drawn;
  for (const Json& head : layer.find("drawn")->items) {
    std::vector<std::pair<std::int64_t, std::int64_t>> list;
    for (std::size_t row = 0; row < head.items.size(); ++row) {
      for (const std::int64_t b : integers(head.items[row]))
        list.emplace_back(static_cast<std::int64_t>(row) + 1, b);
    }
    drawn.push_back(Mask::bigbird(block, 0) | Mask::blocks(block, list));
  }
  heads.run({.mask = Mask::per_head(drawn)});
  expect_rows(heads.out, layer, 1e-12);
}

}  // namespace
}  // namespace attn
