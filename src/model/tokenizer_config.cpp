#include "model/tokenizer_config.h"

#include <charconv>

#include "attn/error.h"
#include "model/fields.h"
#include "model/json.h"

namespace attn {

TokenizerConfig parse_tokenizer_config(std::string_view json, const std::string& source) {
  const Json tree = Json::parse(json, source);
  const Fields fields(tree, source);
  TokenizerConfig config;
  const std::string tokenizer = fields.text("tokenizer_class").value_or("BertTokenizer");
  if (tokenizer != "BertTokenizer" && tokenizer != "BertTokenizerFast") {
    fields.fail("tokenizer_class", "\"" + tokenizer + "\" is not known, BertTokenizer is");
  }
  if (!fields.boolean("do_basic_tokenize").value_or(true)) {
    fields.fail("do_basic_tokenize", "is false, which is not known");
  }
  config.lower_case = fields.boolean("do_lower_case");
  config.strip_accents = fields.boolean("strip_accents");
  config.split_cjk = fields.boolean("tokenize_chinese_chars").value_or(true);
  const std::pair<const char*, std::string*> specials[] = {{"unk_token", &config.unknown},
                                                           {"sep_token", &config.separator},
                                                           {"pad_token", &config.padding},
                                                           {"cls_token", &config.classifier},
                                                           {"mask_token", &config.mask}};
  for (const auto& [name, text] : specials) {
    const Json* value = fields.find(name);
    if (value == nullptr) continue;
    // An added token is an object with its text inside.
    if (value->is(Json::Kind::object)) value = value->find("content");
    if (value == nullptr || !value->is(Json::Kind::text) || value->text.empty()) {
      fields.fail(name, "is not a token's text");
    }
    *text = value->text;
  }
  if (const Json* const added = fields.find("added_tokens_decoder")) {
    for (std::size_t i = 0; i < added->names.size(); ++i) {
      const std::string& number = added->names[i];
      const Json& token = added->items[i];
      std::int64_t id = -1;
      const char* const last = number.data() + number.size();
      const auto parsed = std::from_chars(number.data(), last, id);
      const Json* const content = token.find("content");
      if (parsed.ec != std::errc() || parsed.ptr != last || id < 0 || content == nullptr ||
          content->text.empty()) {
        fields.fail("added_tokens_decoder", "has an entry \"" + number + "\" without id or text");
      }
      for (const char* const flag : {"lstrip", "rstrip", "single_word", "normalized"}) {
        const Json* const value = token.find(flag);
        if (value != nullptr && value->boolean) {
          fields.fail("added_tokens_decoder", "gives \"" + content->text + "\" the property " +
                                                  flag + ", which is not known");
        }
      }
      config.added.emplace_back(content->text, id);
    }
  }
  return config;
}

}  // namespace attn
