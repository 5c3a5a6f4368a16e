#include "model/llama2c.h"

#include <cstdio>
#include <cstring>
#include <utility>

#include "attn/error.h"

namespace attn {

namespace {

// Hands out a file's bytes in order.
class Reader {
 public:
  Reader(std::span<const std::byte> file, const std::string& source)
      : file_(file), source_(source) {}

  [[noreturn]] void fail(const std::string& what) const { throw Error(source_ + ": " + what); }

  std::int32_t integer(const char* what) {
    std::int32_t value = 0;
    std::memcpy(&value, take(sizeof value, what).data(), sizeof value);
    return value;
  }
  std::span<const std::byte> take(std::size_t bytes, const char* what) {
    if (bytes > file_.size() - at_) fail(std::string("ends within ") + what);
    const auto part = file_.subspan(at_, bytes);
    at_ += bytes;
    return part;
  }
  std::size_t left() const { return file_.size() - at_; }

 private:
  std::span<const std::byte> file_;
  const std::string& source_;
  std::size_t at_ = 0;
};

}  // namespace

Llama2c parse_llama2c(std::span<const std::byte> file, const std::string& source) {
  Reader in(file, source);
  constexpr std::int64_t kLargest = 1 << 24;
  const auto size = [&](const char* what) {
    const std::int64_t value = in.integer(what);
    if (value < 1 || value > kLargest) {
      in.fail(std::string(what) + " is " + std::to_string(value) + ", must be in [1, " +
              std::to_string(kLargest) + "]");
    }
    return value;
  };
  Llama2c model;
  TransformerConfig& c = model.config;
  c.width = size("the width");
  c.feed_forward_width = size("the width of the feed-forward layer");
  c.layers = size("the number of layers");
  c.heads = size("the number of heads");
  c.kv_heads = size("the number of key/value heads");
  const std::int64_t vocabulary =
      in.integer("the vocabulary's size");  // negative: a head of its own
  c.vocabulary = vocabulary < 0 ? -vocabulary : vocabulary;
  if (c.vocabulary < 1 || c.vocabulary > kLargest)
    in.fail("the vocabulary's size is " + std::to_string(vocabulary));
  c.positions = size("the number of positions");
  if (c.width % c.heads != 0 || c.heads % c.kv_heads != 0) {
    in.fail("a width of " + std::to_string(c.width) + ", " + std::to_string(c.heads) +
            " heads and " + std::to_string(c.kv_heads) + " key/value heads do not fit each other");
  }
  c.head_width = c.width / c.heads;
  if (c.head_width % 2 != 0) in.fail("the head width " + std::to_string(c.head_width) + " is odd");
  c.norm = NormKind::rms;
  c.norm_epsilon = 1e-5;
  c.rope = RopeOptions{.layout = RopeLayout::interleaved};
  c.activation = nn::Activation::silu;
  c.gated = true;

  // Sizes below 2^24 each: the product of three of them may wrap, of two never.
  const auto floats = [&](const char* what, std::int64_t count, std::int64_t each) {
    const auto numbers = static_cast<std::uint64_t>(count) * static_cast<std::uint64_t>(each);
    if (numbers > in.left() / sizeof(float)) in.fail(std::string("ends within ") + what);
    return reinterpret_cast<const float*>(in.take(numbers * sizeof(float), what).data());
  };
  const auto matrices = [&](const char* what, std::int64_t out, std::int64_t width) {
    const auto each = static_cast<std::uint64_t>(out) * static_cast<std::uint64_t>(width);
    if (each > in.left() / sizeof(float)) in.fail(std::string("ends within ") + what);
    return floats(what, c.layers, static_cast<std::int64_t>(each));
  };
  const std::int64_t kv_width = c.kv_heads * c.head_width;
  TransformerWeights& w = model.weights;
  w.embedding = floats("the embedding", c.vocabulary, c.width);
  const float* attention_norm = matrices("the norms before attention", 1, c.width);
  const float* query = matrices("the query weights", c.width, c.width);
  const float* key = matrices("the key weights", kv_width, c.width);
  const float* value = matrices("the value weights", kv_width, c.width);
  const float* output = matrices("the output weights", c.width, c.width);
  const float* feed_forward_norm = matrices("the norms before the feed-forward", 1, c.width);
  const float* gate = matrices("the gate weights", c.feed_forward_width, c.width);
  const float* down = matrices("the down weights", c.width, c.feed_forward_width);
  const float* up = matrices("the up weights", c.feed_forward_width, c.width);
  w.final_norm.weight = floats("the last norm", 1, c.width);
  floats("the rotation tables", c.positions, c.head_width);  // we compute them
  w.head.weight = vocabulary > 0 ? w.embedding : floats("the head", c.vocabulary, c.width);
  if (in.left() > 0) in.fail(std::to_string(in.left()) + " bytes follow the last weight");
  for (std::int64_t i = 0; i < c.layers; ++i) {
    TransformerWeights::Layer layer;
    layer.attention_norm.weight = attention_norm + i * c.width;
    layer.query.weight = query + i * c.width * c.width;
    layer.key.weight = key + i * kv_width * c.width;
    layer.value.weight = value + i * kv_width * c.width;
    layer.output.weight = output + i * c.width * c.width;
    layer.feed_forward_norm.weight = feed_forward_norm + i * c.width;
    layer.gate.weight = gate + i * c.feed_forward_width * c.width;
    layer.down.weight = down + i * c.width * c.feed_forward_width;
    layer.up.weight = up + i * c.feed_forward_width * c.width;
    w.layers.push_back(layer);
  }
  return model;
}

std::vector<std::string> parse_llama2c_vocabulary(std::span<const std::byte> file,
                                                  std::int64_t count, const std::string& source) {
  Reader in(file, source);
  in.integer("the longest piece's length");
  std::vector<std::string> pieces;
  for (std::int64_t i = 0; i < count; ++i) {
    in.take(sizeof(float), "a score");
    const std::int32_t length = in.integer("a length");
    if (length < 0) in.fail("piece " + std::to_string(i) + " has a negative length");
    const auto bytes = in.take(static_cast<std::size_t>(length), "a piece");
    std::string piece(reinterpret_cast<const char*>(bytes.data()), bytes.size());
    unsigned byte = 0;
    char end = 0;
    if (piece.size() == 6 && std::sscanf(piece.c_str(), "<0x%2X%c", &byte, &end) == 2 && end == '>')
      piece = std::string(1, static_cast<char>(byte));
    if (piece == "\n<s>\n" || piece == "\n</s>\n") piece.clear();
    pieces.push_back(std::move(piece));
  }
  if (in.left() > 0) in.fail(std::to_string(in.left()) + " bytes follow the last piece");
  return pieces;
}

}  // namespace attn
