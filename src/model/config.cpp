#include "model/config.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <utility>

#include "attn/error.h"
#include "model/fields.h"
#include "model/file.h"
#include "model/json.h"

namespace attn {
namespace {

void check_architecture(const Fields& fields) {
  const std::string type = fields.needed_text("model_type");
  if (type != "bert") fields.fail("model_type", "\"" + type + "\" is not known, only \"bert\" is");
  static constexpr std::array kKnown = {"BertModel",
                                        "BertForPreTraining",
                                        "BertForMaskedLM",
                                        "BertForMultipleChoice",
                                        "BertForNextSentencePrediction",
                                        "BertForQuestionAnswering",
                                        "BertForSequenceClassification",
                                        "BertForTokenClassification"};
  if (const Json* const list = fields.find("architectures")) {
    for (const Json& name : list->items) {
      if (std::find(kKnown.begin(), kKnown.end(), name.text) == kKnown.end()) {
        fields.fail("architectures", "names \"" + name.text + "\", which is not known");
      }
    }
  }
  for (const char* const flag : {"is_decoder", "add_cross_attention", "is_encoder_decoder"}) {
    if (fields.boolean(flag).value_or(false)) {
      fields.fail(flag, "is true, only encoders are known");
    }
  }
  const std::string positions = fields.text("position_embedding_type").value_or("absolute");
  if (positions != "absolute") {
    fields.fail("position_embedding_type",
                "\"" + positions + "\" is not known, only \"absolute\" is");
  }
}

nn::Activation activation(const Fields& fields) {
  const std::string name = fields.needed_text("hidden_act");
  if (name == "gelu" || name == "gelu_python") return nn::Activation::gelu;
  if (name == "gelu_new" || name == "gelu_pytorch_tanh" || name == "gelu_fast") {
    return nn::Activation::gelu_tanh;
  }
  if (name == "relu") return nn::Activation::relu;
  fields.fail("hidden_act",
              "\"" + name + "\" is not known (gelu, gelu_new, gelu_pytorch_tanh, relu)");
}

// 1_Pooling/config.json: exactly one of the modes that we know.
Pooling parse_pooling(std::string_view json, const std::string& source) {
  const Json tree = Json::parse(json, source);
  const Fields fields(tree, source);
  std::optional<Pooling> found;
  static const std::string kPrefix = "pooling_mode_";
  for (std::size_t i = 0; i < tree.names.size(); ++i) {
    const std::string& name = tree.names[i];
    const Json& value = tree.items[i];
    if (name.compare(0, kPrefix.size(), kPrefix) != 0) continue;
    if (!value.is(Json::Kind::boolean) || !value.boolean) continue;
    if (found) fields.fail(name, "is true beside another mode; joined vectors are not known");
    if (name == "pooling_mode_mean_tokens") {
      found = Pooling::mean;
    } else if (name == "pooling_mode_cls_token") {
      found = Pooling::cls;
    } else if (name == "pooling_mode_max_tokens") {
      found = Pooling::max;
    } else {
      fields.fail(name, "is true, which is not known (mean, cls and max are)");
    }
  }
  // Later versions name the mode instead.
  if (const auto mode = fields.text("pooling_mode"); mode && !found) {
    if (*mode == "mean") found = Pooling::mean;
    if (*mode == "cls") found = Pooling::cls;
    if (*mode == "max") found = Pooling::max;
    if (!found) fields.fail("pooling_mode", "\"" + *mode + "\" is not known (mean, cls, max)");
  }
  if (!found) throw Error(source + ": no pooling mode is set");
  return *found;
}

// modules.json: a transformer, then perhaps pooling, then perhaps normalisation.
PoolingConfig read_modules(const std::string& folder) {
  PoolingConfig config;
  const std::string source = folder + "/modules.json";
  const auto json = read_file_if_present(source);
  if (!json) return config;
  const Json tree = Json::parse(*json, source);
  if (!tree.is(Json::Kind::array)) {
    throw Error(source + ": holds " + tree.kind_name() + ", must be an array");
  }
  for (const Json& item : tree.items) {
    const Fields module(item, source);
    const std::string type = module.needed_text("type");
    const std::string kind = type.substr(type.rfind('.') + 1);
    if (kind == "Transformer") {
      const std::string path = module.text("path").value_or("");
      if (!path.empty())
        module.fail("path", "of the transformer is \"" + path + "\", must be \"\"");
    } else if (kind == "Pooling") {
      const std::string path = module.needed_text("path");
      if (path.empty() || path.front() == '/' || path.find("..") != std::string::npos) {
        module.fail("path", "\"" + path + "\" leaves the folder");
      }
      const std::string file = folder + "/" + path + "/config.json";
      config.pooling = parse_pooling(read_file(file), file);
    } else if (kind == "Normalize") {
      config.normalize = true;
    } else {
      module.fail("type", "\"" + type + "\" is not known (Transformer, Pooling, Normalize)");
    }
  }
  return config;
}

}  // namespace

BertConfig parse_bert_config(std::string_view json, const std::string& source) {
  const Json tree = Json::parse(json, source);
  const Fields fields(tree, source);
  check_architecture(fields);
  // Bounds far above any model keep products of sizes inside 64 bits.
  constexpr std::int64_t kLargest = 1 << 24;
  BertConfig config;
  config.layers = fields.needed_size("num_hidden_layers", 4096);
  config.heads = fields.needed_size("num_attention_heads", 4096);
  config.width = fields.needed_size("hidden_size", 1 << 20);
  config.feed_forward_width = fields.needed_size("intermediate_size", kLargest);
  config.vocabulary = fields.needed_size("vocab_size", kLargest);
  config.positions = fields.needed_size("max_position_embeddings", kLargest);
  config.types = fields.size("type_vocab_size", 1024).value_or(2);
  config.activation = activation(fields);
  config.layer_norm_epsilon = fields.number("layer_norm_eps").value_or(1e-12);
  if (!(config.layer_norm_epsilon >= 0 && config.layer_norm_epsilon < 1)) {
    fields.fail("layer_norm_eps",
                "is " + std::to_string(config.layer_norm_epsilon) + ", must be in [0, 1)");
  }
  if (config.width % config.heads != 0) {
    fields.fail("hidden_size", "is " + std::to_string(config.width) + ", not a multiple of " +
                                   std::to_string(config.heads) + " heads");
  }
  if (config.head_width() > 1024) {
    fields.fail("hidden_size", "gives heads of width " + std::to_string(config.head_width()) +
                                   ", at most 1024 are supported");
  }
  return config;
}

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

FolderConfig read_folder_config(const std::string& folder) {
  FolderConfig config;
  const std::string main = folder + "/config.json";
  config.bert = parse_bert_config(read_file(main), main);
  config.pooling = read_modules(folder);
  const std::string tokenizer = folder + "/tokenizer_config.json";
  if (const auto json = read_file_if_present(tokenizer)) {
    config.tokenizer = parse_tokenizer_config(*json, tokenizer);
  }
  config.max_length = config.bert.positions;
  const std::string sentence = folder + "/sentence_bert_config.json";
  if (const auto json = read_file_if_present(sentence)) {
    const Json tree = Json::parse(*json, sentence);
    const Fields fields(tree, sentence);
    if (const auto length = fields.size("max_seq_length", 1 << 24)) {
      config.max_length = std::min(*length, config.bert.positions);
    }
    // Sentence-transformers then lower-cases every text before the tokenizer sees it, which leaves
    // the accents to a cased tokenizer.
    if (fields.boolean("do_lower_case").value_or(false)) {
      if (!config.tokenizer.lower_case.value_or(true) && !config.tokenizer.strip_accents) {
        config.tokenizer.strip_accents = false;
      }
      config.tokenizer.lower_case = true;
    }
  }
  return config;
}

}  // namespace attn
