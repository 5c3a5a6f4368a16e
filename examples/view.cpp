// A page from anybody's tensors: who looks at whom, for six words and two heads.
#include <cstdio>
#include <random>

#include "attn/inspect.h"

int main(int argc, char** argv) {
  attn::AttentionRecord record;
  record.model = "two random heads";
  for (const char* word : {"the", "cat", "sat", "on", "the", "mat"}) {
    record.tokens.push_back({.text = word});
  }
  record.heads = record.kv_heads = 2;
  record.width = 8;

  attn::LayerRecord layer;  // queries and keys [heads][tokens][width], as attention reads them
  std::mt19937 random(1);
  std::normal_distribution<float> normal(0, 2);
  for (int i = 0; i < 2 * 6 * 8; ++i) layer.q.push_back(normal(random));
  for (int i = 0; i < 2 * 6 * 8; ++i) layer.k.push_back(normal(random));
  layer.mask = attn::Mask::causal();
  record.layers.push_back(layer);

  std::puts(attn::write_page(record, argc > 1 ? argv[1] : "view.html").c_str());
  for (const std::string& line : attn::findings(record, attn::head_statistics(record))) {
    std::puts(line.c_str());
  }
}
