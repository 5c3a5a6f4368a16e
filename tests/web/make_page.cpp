// Pages for the browser test: make_test_page KIND TOKENS PAGE NUMBERS
//   KIND plain: the synthetic record; general: grouped heads, masks and scores of every sort;
//   hostile: tokens that try to break out of the page; bare: no special tokens; decoder: a causal
//   one, some of its layers, the last tokens generated; pictures: the same where only the first
//   layer has room; translation: encoder, decoder and cross, of TOKENS target tokens and of half as
//   many source tokens, some in a script that runs to the left.
// NUMBERS receives, as JSON, the library's attention rows of some (tab, layer, head, query), by
// which the test checks what the page shows.
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iostream>

#include "attn/inspect.h"
#include "inspect/synthetic.h"

namespace {

attn::AttentionRecord general(std::size_t n, std::vector<float>& bias) {
  using attn::Mask;
  attn::AttentionRecord r = attn::synthetic::record(n, 6, 6, 10, 3);
  const auto length = static_cast<std::int64_t>(n);
  r.layers[0].mask = Mask::causal();
  r.layers[0].score = attn::Score::alibi();
  r.layers[1].mask = Mask::window(3, 2) | Mask::global_tokens({0});
  r.layers[1].score.soft_cap = 2;
  r.layers[2].score.sinks = {0.5f, 1, -1, 2, 0, 3};
  r.layers[2].score.scale = 0.7;
  std::vector<Mask> masks;
  for (std::int64_t h = 0; h < 6; ++h)
    masks.push_back(h % 2 == 0 ? Mask::causal() : Mask::window(h, 0));
  r.layers[3].mask = Mask::per_head(masks);
  attn::T5Bias t5{.table = {}, .buckets = 8, .max_distance = 16, .bidirectional = true};
  for (int i = 0; i < 8 * 6; ++i) t5.table.push_back(0.1f * static_cast<float>(i % 7) - 0.3f);
  r.layers[4].score.t5 = t5;
  bias.assign(n * n, 0.0f);
  for (std::size_t i = 0; i < bias.size(); ++i) bias[i] = 0.01f * static_cast<float>(i * 37 % 101);
  r.layers[5].score.bias = attn::ConstTensor(bias.data(), attn::Shape{1, 1, length, length});
  r.layers[5].mask = Mask::padding({length - 2}) & Mask::dilated_window(4, 4, 2);
  return r;
}

void hostile(attn::AttentionRecord& r) {
  const char* const texts[] = {"</script><script>window.broken=1</script>",
                               "<!-- <script>",
                               "<img src=x onerror=window.broken=1>",
                               "\xff\xfe",
                               "a\"b'c&amp;",
                               "\n\t",
                               "\xe2\x80\xae right to left",
                               "=1+1",
                               "\xe6\xbc\xa2\xe5\xad\x97"};
  std::size_t i = 1;
  for (const char* text : texts) r.tokens[i++].text = text;
  r.model = "</title><script>window.broken=1</script>";
}

// Grouped heads, causal and windowed layers, soft cap and ALiBi, as language models have them.
attn::AttentionRecord decoder(std::size_t n, std::int64_t width) {
  using attn::Mask;
  attn::AttentionRecord r = attn::synthetic::record(n, 3, 6, width, 3);
  r.layer_numbers = {0, 3, 7};
  r.layers[0].mask = Mask::causal();
  r.layers[0].score.soft_cap = 5;
  r.layers[1].mask = Mask::causal() & Mask::window(6, 0);
  r.layers[1].score.scale = 0.4;
  r.layers[2].mask = Mask::causal();
  r.layers[2].score = attn::Score::alibi();
  r.verbatim = true;
  for (std::size_t i = 0; i < n; ++i) {
    attn::RecordToken& token = r.tokens[i];
    token.special = false;
    token.word = static_cast<std::int32_t>(i);
    token.text = i == 0 ? "Once" : i % 9 == 4 ? "\n" : i % 9 == 7 ? "" : " " + token.text;
    token.generated = i >= n - n / 3;
  }
  r.tokens[6].text = " \xf0\x9f\x98\x80";  // the next token ends it
  return r;
}

// Two layers of three heads whose states forget more or less.
attn::AttentionRecord implied(std::size_t n) {
  attn::AttentionRecord r;
  r.tokens = attn::synthetic::tokens(n);
  r.heads = r.kv_heads = 3;
  const auto length = static_cast<std::int64_t>(n);
  const attn::AttentionRecord from = attn::synthetic::record(n, 2, 3, 10);
  const float decays[] = {0, -0.1F, -1};
  for (const attn::LayerRecord& layer : from.layers) {
    const attn::Shape rows{1, 3, length, 10};
    const attn::ConstTensor k(layer.k.data(), rows);
    r.layers.push_back(
        {.mask = attn::Mask::causal(),
         .implied = attn::ImpliedAttention::of(
             {.q = {layer.q.data(), rows}, .k = k, .v = k, .log_decay = {decays, {1, 3, 1, 1}}})});
  }
  return r;
}

attn::TranslationRecord translation(std::size_t n) {
  attn::TranslationRecord r = attn::synthetic::translation(n, n / 2, 2, 3, 10);
  const char* const letters[] = {" \xd8\xa2", " \xd8\xaa", " \xd8\xb2"};
  for (std::size_t i = 1; i <= 3; ++i)
    r.cross.keys[i].text = r.encoder.tokens[i].text = letters[i - 1];
  for (attn::AttentionRecord* const part : {&r.decoder, &r.cross}) {
    part->verbatim = true;
    for (std::size_t i = 0; i < n; ++i) {
      attn::RecordToken& token = part->tokens[i];
      if (!token.special) token.text = " " + token.text;
      token.generated = i > 0;
    }
  }
  r.encoder.verbatim = true;
  r.cross.layers[1].mask = attn::Mask::padding({static_cast<std::int64_t>(n / 2) - 1});
  r.cross.layers[1].score.sinks = {0.5f, 1, -1};
  return r;
}

// Rows of some heads, each with a comma before it unless it is the first of all.
void write_rows(const attn::AttentionRecord& record, int tab, bool& first, std::ofstream& numbers) {
  const auto heads = static_cast<int>(record.heads);
  const std::size_t n = record.tokens.size();
  for (int l = 0; l < static_cast<int>(record.layers.size()); ++l) {
    for (int h : {l % heads, heads - 1}) {
      for (std::size_t q : {std::size_t{0}, n / 2, n - 1}) {
        const auto number = static_cast<int>(record.layer_number(static_cast<std::size_t>(l)));
        numbers << (first ? "" : ",") << "\n{\"tab\": " << tab << ", \"layer\": " << number
                << ", \"head\": " << h << ", \"query\": " << q << ", \"row\": [";
        first = false;
        const char* comma = "";
        for (double p : attn::attention_row(record, number, h, static_cast<std::int64_t>(q))) {
          char text[40];
          std::snprintf(text, sizeof text, "%s%.17g", comma, p);
          numbers << text;
          comma = ",";
        }
        numbers << "]}";
      }
    }
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 5) {
    std::cerr << "usage: make_test_page plain|general|hostile|bare|decoder|pictures|translation|"
                 "implied TOKENS PAGE NUMBERS\n";
    return 2;
  }
  const std::string kind = argv[1];
  const auto n = static_cast<std::size_t>(std::atoi(argv[2]));
  std::ofstream numbers(argv[4]);
  numbers << "{\"rows\": [";
  bool first = true;
  if (kind == "translation") {
    const attn::TranslationRecord record = translation(n);
    std::cout << attn::write_page(record, argv[3]) << "\n";
    int tab = 0;
    for (const attn::AttentionRecord* const part :
         {&record.encoder, &record.decoder, &record.cross})
      write_rows(*part, tab++, first, numbers);
  } else {
    std::vector<float> bias;
    attn::AttentionRecord record = kind == "general" ? general(n, bias)
                                   : kind == "decoder" || kind == "pictures"
                                       ? decoder(n, kind == "pictures" ? 64 : 10)
                                   : kind == "implied" ? implied(n)
                                                       : attn::synthetic::record(n);
    if (kind == "hostile") hostile(record);
    if (kind == "bare") {
      for (attn::RecordToken& token : record.tokens) token.special = false;
    }
    // At 700 tokens a picture and rows of a layer take 0.47 MB, its queries and keys 0.54 MB more.
    const double limit = kind == "pictures" ? 3 * 0.47e6 + 0.65e6 : attn::kPageLimit;
    std::cout << attn::write_page(record, argv[3], "", attn::Context(), limit) << "\n";

    write_rows(record, 0, first, numbers);
  }
  numbers << "]}\n";
  return numbers.good() ? 0 : 1;
}
