// Encoder-decoders in CTranslate2's files, as its converters write them for OpenNMT, Fairseq,
// Marian and BART models (OpenNMT/CTranslate2, python/ctranslate2/specs/transformer_spec.py,
// src/layers/transformer.cc): norms before or after, sines or tables of positions.
#include <cmath>
#include <optional>
#include <set>

#include "attn/error.h"
#include "model/translators.h"

namespace attn {

namespace {

// Sines have no last position; for so many tokens tables are made.
constexpr std::int64_t kSinePositions = 1024;

// The file's variables; none may be left over, because it would change the result.
class Variables {
 public:
  Variables(Weights& weights, std::string source)
      : weights_(weights), file_(*weights.ctranslate2()), source_(std::move(source)) {}

  [[noreturn]] void fail(const std::string& what) const { throw Error(source_ + ": " + what); }
  bool has(const std::string& name) const { return file_.has(name); }
  double number(const std::string& name, double otherwise) {
    used_.insert(name);
    return file_.number(name).value_or(otherwise);
  }
  std::string text(const std::string& name, const std::string& otherwise) {
    used_.insert(name);
    return file_.text(name).value_or(otherwise);
  }
  const TensorEntry& entry(const std::string& name) const {
    for (const TensorEntry& entry : file_.tensors()) {
      if (entry.name == name) return entry;
    }
    fail("tensor " + name + ": is missing");
  }
  const std::vector<std::int64_t>& shape(const std::string& name) const {
    return entry(name).shape;
  }
  const float* floats(const std::string& name, const std::vector<std::int64_t>& sizes) {
    used_.insert(name);
    return weights_.floats(name, sizes);
  }
  // Weights [out][in] and their bias, from row `first` on.
  TransformerWeights::Linear linear(const std::string& name, std::int64_t all, std::int64_t in,
                                    std::int64_t first = 0) {
    const std::string bias = name + "/bias";
    return {floats(name + "/weight", {all, in}) + first * in,
            has(bias) ? floats(bias, {all}) + first : nullptr};
  }
  TransformerWeights::Norm norm(const std::string& name, std::int64_t width) {
    const std::string beta = name + "/beta";
    const bool rms = !has(beta);
    if (rms_.value_or(rms) != rms)
      fail("tensor " + beta + ": is " + (rms ? "missing" : "there") +
           ", unlike that of other norms");
    rms_ = rms;
    return {floats(name + "/gamma", {width}), rms ? nullptr : floats(beta, {width})};
  }
  // Settings that change no result of ours.
  void ignore(const std::string& name) { used_.insert(name); }
  void refuse_others() const {
    for (const TensorEntry& entry : file_.tensors()) {
      if (used_.count(entry.name) == 0) fail("tensor " + entry.name + ": is not known");
    }
  }

 private:
  Weights& weights_;
  const CTranslate2& file_;
  std::optional<bool> rms_ = {};  // all norms, or none
  std::string source_;
  std::set<std::string> used_;
};

// By its number in ops::ActivationType.
nn::Activation activation(Variables& in, const std::string& name) {
  const double number = in.number(name, 0);
  if (number == 0) return nn::Activation::relu;
  if (number == 1) return nn::Activation::gelu_tanh;
  if (number == 2) return nn::Activation::silu;
  if (number == 3) return nn::Activation::gelu;
  in.fail("tensor " + name + ": activation " + std::to_string(number) + " is not known (0 to 3)");
}

// By the square root of the width unless the file says otherwise: a flag, or the scale itself.
double embedding_scale(Variables& in, const std::string& side, std::int64_t width) {
  for (const char* const name : {"/scale_embeddings", "/embeddings/multiply_by_sqrt_depth"}) {
    if (!in.has(side + name)) continue;
    const double scale = in.number(side + name, 1);
    if (in.entry(side + name).dtype != "I8") return scale;
    if (scale == 0) return 1;
    break;
  }
  return std::sqrt(static_cast<double>(width));
}

// Sines in the front half, cosines behind, of positions from 1 on (tensor2tensor's way).
const float* sine_table(std::int64_t width, TransformerWeights& w) {
  const auto each = static_cast<std::size_t>(width), half = each / 2;
  std::vector<float>& table = w.made.emplace_back(static_cast<std::size_t>(kSinePositions) * each);
  const double step = std::log(10000.0) / (static_cast<double>(half) - 1);
  for (std::size_t p = 0; p < static_cast<std::size_t>(kSinePositions); ++p) {
    for (std::size_t i = 0; i < half; ++i) {
      const double angle = static_cast<double>(p + 1) * std::exp(-step * static_cast<double>(i));
      table[p * each + i] = static_cast<float>(std::sin(angle));
      table[p * each + half + i] = static_cast<float>(std::cos(angle));
    }
  }
  return table.data();
}

struct Family {
  std::int64_t heads = 0;  // where the file does not say: by the name of its specification
  bool shared = false;     // settings stand at the top, for both sides (revisions before 5)
};

std::string setting_of(const Family& family, const std::string& side, const std::string& name) {
  return family.shared ? name : side + "/" + name;
}

DescribedModel read_side(Variables& in, const Family& family, const std::string& side) {
  const bool decoder = side == "decoder";
  DescribedModel model;
  TransformerConfig& c = model.config;
  TransformerWeights& w = model.weights;
  const std::string embeddings =
      side + (in.has(side + "/embeddings_0/weight") ? "/embeddings_0" : "/embeddings");
  const auto& shape = in.shape(embeddings + "/weight");
  if (shape.size() != 2) in.fail("tensor " + embeddings + "/weight: must have two dimensions");
  c.vocabulary = shape[0];
  c.width = shape[1];
  if (c.width < 1 || c.width > kLargestSize || c.vocabulary < 1)
    in.fail("tensor " + embeddings + "/weight: has shape " + to_string(shape));
  const double heads =
      in.number(setting_of(family, side, "num_heads"), static_cast<double>(family.heads));
  if (!(heads >= 1 && heads <= static_cast<double>(c.width)) ||
      c.width % static_cast<std::int64_t>(heads) != 0) {
    in.fail(side + ": a width of " + std::to_string(c.width) + " is not that of whole heads");
  }
  c.heads = c.kv_heads = static_cast<std::int64_t>(heads);
  c.head_width = c.width / c.heads;
  if (c.head_width > 1024) in.fail(side + ": heads are wider than 1024");
  c.causal = decoder;
  c.post_norm = in.number(setting_of(family, side, "pre_norm"), 1) == 0;
  c.activation = activation(in, setting_of(family, side, "activation"));
  c.embedding_scale = embedding_scale(in, side, c.width);
  in.ignore(side + "/scale_embeddings");
  in.ignore(side + "/embeddings/multiply_by_sqrt_depth");
  w.embedding = in.floats(embeddings + "/weight", shape);
  const std::string table = side + "/position_encodings/encodings";
  if (in.has(table)) {
    const auto& sizes = in.shape(table);
    c.positions = sizes.empty() ? 0 : sizes[0];
    w.positions = in.floats(table, {c.positions, c.width});
  } else {
    if (c.width % 2 != 0 || c.width < 4)
      in.fail(side + ": sines of positions need an even width of at least 4, not " +
              std::to_string(c.width));
    c.positions = kSinePositions;
    w.positions = sine_table(c.width, w);
  }
  if (in.has(side + "/layernorm_embedding/gamma"))
    w.embedding_norm = in.norm(side + "/layernorm_embedding", c.width);

  std::int64_t first_wide = 0;
  for (;; ++c.layers) {
    const std::string name = side + "/layer_" + std::to_string(c.layers);
    const std::string up = name + "/ffn/linear_0";
    if (!in.has(up + "/weight")) break;
    const auto& wide = in.shape(up + "/weight");
    if (wide.empty() || wide[0] < 1 || wide[0] > kLargestSize)
      in.fail("tensor " + up + "/weight: has shape " + to_string(wide));
    if (c.layers == 0) first_wide = wide[0];
    const auto part = [&](const std::string& linear, std::int64_t parts, std::int64_t which) {
      return in.linear(name + linear, parts * c.width, c.width, which * c.width);
    };
    TransformerWeights::Layer layer;
    layer.attention_norm = in.norm(name + "/self_attention/layer_norm", c.width);
    layer.query = part("/self_attention/linear_0", 3, 0);
    layer.key = part("/self_attention/linear_0", 3, 1);
    layer.value = part("/self_attention/linear_0", 3, 2);
    layer.output = part("/self_attention/linear_1", 1, 0);
    if (decoder) {
      layer.source_norm = in.norm(name + "/attention/layer_norm", c.width);
      layer.source_query = part("/attention/linear_0", 1, 0);
      layer.source_key = part("/attention/linear_1", 2, 0);
      layer.source_value = part("/attention/linear_1", 2, 1);
      layer.source_output = part("/attention/linear_2", 1, 0);
    }
    layer.feed_forward_norm = in.norm(name + "/ffn/layer_norm", c.width);
    layer.up = in.linear(up, first_wide, c.width);
    layer.down = in.linear(name + "/ffn/linear_1", c.width, first_wide);
    w.layers.push_back(layer);
  }
  if (c.layers == 0) in.fail(side + ": has no layers");
  c.feed_forward_width = first_wide;
  if (in.has(side + "/layer_norm/gamma")) w.final_norm = in.norm(side + "/layer_norm", c.width);
  // RMS norms have no beta, and CTranslate2's smaller epsilon.
  if (w.layers.front().attention_norm.bias == nullptr) {
    c.norm = NormKind::rms;
    c.norm_epsilon = 1e-6;
  }
  return model;
}

}  // namespace

CTranslate2Translator load_ctranslate2(Weights& weights, const std::string& config_json,
                                       const std::string& source) {
  const CTranslate2& file = *weights.ctranslate2();
  Variables in(weights, source);
  Family family;
  const std::string& kind = file.specification();
  if (kind == "TransformerBase" || kind == "TransformerSpec" || kind.empty()) family.heads = 8;
  if (kind == "TransformerBig") family.heads = 16;
  if (family.heads == 0) {
    in.fail("specification \"" + kind +
            "\" is not known (TransformerSpec, TransformerBase, TransformerBig)");
  }
  constexpr std::uint32_t kOldest = 2, kNewest = 7;
  if (file.revision() < kOldest || file.revision() > kNewest) {
    in.fail("revision " + std::to_string(file.revision()) + " of its specification is not known (" +
            std::to_string(kOldest) + " to " + std::to_string(kNewest) + ")");
  }
  family.shared = file.revision() < 5;
  CTranslate2Translator out;
  out.model.encoder = read_side(in, family, "encoder");
  out.model.decoder = read_side(in, family, "decoder");
  const TransformerConfig& c = out.model.decoder.config;
  if (out.model.encoder.config.width != c.width)
    in.fail("encoder and decoder have different widths");
  out.model.decoder.weights.head = in.linear("decoder/projection", c.vocabulary, c.width);
  out.model.search.max_tokens = std::min<std::int64_t>(256, c.positions);  // CTranslate2's own

  CTranslate2Tokens& t = out.tokens;
  t.unknown = in.text("unk_token", "<unk>");
  t.begin = in.text("bos_token", "<s>");
  t.end = in.text("eos_token", "</s>");
  t.source_begin = in.number("with_source_bos", 0) != 0;
  t.source_end = in.number("with_source_eos", 0) != 0;
  const bool begins = in.number("with_target_bos", 1) != 0;
  t.start = begins ? t.begin : t.end;
  if (in.number("user_decoder_start_tokens", 0) != 0) t.start = "";
  // Since version 6 all this stands in config.json.
  if (!config_json.empty()) {
    const std::string place = source.substr(0, source.find_last_of('/') + 1) + "config.json";
    const Json tree = Json::parse(config_json, place);
    const Fields fields(tree, place);
    t.unknown = fields.text("unk_token").value_or(t.unknown);
    t.begin = fields.text("bos_token").value_or(t.begin);
    t.end = fields.text("eos_token").value_or(t.end);
    t.source_begin = fields.boolean("add_source_bos").value_or(t.source_begin);
    t.source_end = fields.boolean("add_source_eos").value_or(t.source_end);
    // null: the user chooses it.
    if (const Json* const given = tree.find("decoder_start_token"))
      t.start = given->is(Json::Kind::null) ? "" : fields.needed_text("decoder_start_token");
    if (const auto epsilon = fields.number("layer_norm_epsilon")) {
      if (!(*epsilon > 0)) fields.fail("layer_norm_epsilon", "must be above 0");
      out.model.encoder.config.norm_epsilon = out.model.decoder.config.norm_epsilon = *epsilon;
    }
    require(fields, "multi_query_attention", false);
    fields.refuse_others({}, {"quantization_type"});
  }
  for (const char* const name :
       {"alignment_layer", "alignment_heads", "decoder/alignment_layer", "decoder/alignment_heads",
        "decoder/alibi_use_positive_positions", "decoder/scale_alibi"}) {
    in.ignore(name);  // for alignments, and of ALiBi
  }
  for (const char* const name :
       {"decoder/start_from_zero_embedding", "decoder/alibi", "encoder/multi_query_attention",
        "embeddings_merge", "encoder/embeddings_merge"}) {
    if (in.number(name, 0) != 0)
      in.fail("tensor " + std::string(name) + ": is set, which we do not run");
  }
  in.refuse_others();
  return out;
}

}  // namespace attn
