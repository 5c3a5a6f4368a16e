// Uses attn::attn from an installed copy: the page of a record that the user made.
#include <cstdio>
#include <string>

#include "attn/inspect.h"
#include "attn/model.h"

int main() {
  attn::AttentionRecord record;
  record.model = "by hand";
  record.tokens = {{.text = "a"}, {.text = "b"}};
  record.heads = record.kv_heads = 1;
  record.width = 2;
  record.layers = {{.q = {1, 0, 0, 1}, .k = {1, 0, 0, 1}, .mask = attn::Mask::causal()}};
  const std::vector<double> row = attn::attention_row(record, 0, 0, 0);
  const std::string page = attn::page(record);
  std::printf("row 0 sees itself with %g; the page has %zu bytes; %zu known models\n", row.at(0),
              page.size(), attn::known_models().size());
  return row.at(0) == 1 && row.at(1) == 0 && page.size() > 1000 ? 0 : 1;
}
