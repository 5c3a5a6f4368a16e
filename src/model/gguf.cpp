#include "model/gguf.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <tuple>
#include <utility>

#include "attn/error.h"
#include "model/byte_reader.h"
#include "model/unicode.h"
#include "model/weight_type.h"

namespace attn {
namespace {

// Far above any model; the counts of a file are checked against its size besides.
constexpr std::uint64_t kMostKeys = 1 << 16, kMostTensors = 1 << 20;
constexpr std::uint64_t kLongestName = 65535;  // what the format allows for keys
constexpr std::uint32_t kMostDimensions = 4;
constexpr int kDeepest = 8;  // arrays in arrays

constexpr std::uint64_t kSmallestPair = 8 + 4 + 1;  // length of the key, type, value
constexpr std::uint64_t kSmallestTensor = 8 + 4 + 4 + 8;
constexpr std::uint64_t kDefaultAlignment = 32;
constexpr char kAlignmentKey[] = "general.alignment";

struct TypeName {
  GgufType type;
  const char* name;
  std::size_t bytes;  // 0: as long as it says
};
constexpr TypeName kTypes[] = {
    {GgufType::u8, "uint8", 1},    {GgufType::i8, "int8", 1},      {GgufType::u16, "uint16", 2},
    {GgufType::i16, "int16", 2},   {GgufType::u32, "uint32", 4},   {GgufType::i32, "int32", 4},
    {GgufType::f32, "float32", 4}, {GgufType::boolean, "bool", 1}, {GgufType::text, "string", 0},
    {GgufType::array, "array", 0}, {GgufType::u64, "uint64", 8},   {GgufType::i64, "int64", 8},
    {GgufType::f64, "float64", 8}};

const TypeName& of(GgufType type) { return kTypes[static_cast<std::size_t>(type)]; }

// ggml's element types by number; also those that are not read, so that messages can name them.
std::string tensor_type_name(std::uint32_t number) {
  static constexpr std::pair<std::uint32_t, const char*> kNames[] = {
      {0, "F32"},     {1, "F16"},      {2, "Q4_0"},   {3, "Q4_1"},    {6, "Q5_0"},
      {7, "Q5_1"},    {8, "Q8_0"},     {9, "Q8_1"},   {10, "Q2_K"},   {11, "Q3_K"},
      {12, "Q4_K"},   {13, "Q5_K"},    {14, "Q6_K"},  {15, "Q8_K"},   {16, "IQ2_XXS"},
      {17, "IQ2_XS"}, {18, "IQ3_XXS"}, {19, "IQ1_S"}, {20, "IQ4_NL"}, {21, "IQ3_S"},
      {22, "IQ2_S"},  {23, "IQ4_XS"},  {24, "I8"},    {25, "I16"},    {26, "I32"},
      {27, "I64"},    {28, "F64"},     {29, "IQ1_M"}, {30, "BF16"},   {34, "TQ1_0"},
      {35, "TQ2_0"},  {39, "MXFP4"}};
  for (const auto& [n, name] : kNames) {
    if (n == number) return name;
  }
  return "number " + std::to_string(number);
}

// Reads texts and names, too.
class Reader : public ByteReader {
 public:
  using ByteReader::ByteReader;

  std::string_view text(const std::string& where) {
    const auto bytes = take(number<std::uint64_t>(where), where);
    return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
  }
  // A key or the name of a tensor.
  std::string_view name(const std::string& where) {
    const std::string_view name = text(where);
    if (name.empty() || name.size() > kLongestName) {
      fail(where, "the name has " + std::to_string(name.size()) + " bytes, must have 1 to " +
                      std::to_string(kLongestName));
    }
    if (!unicode::is_utf8(name)) fail(where, "the name is not UTF-8");
    return name;
  }
};

GgufType read_type(Reader& reader, const std::string& where) {
  const auto number = reader.number<std::uint32_t>(where);
  if (number > static_cast<std::uint32_t>(GgufType::f64)) {
    reader.fail(where, "has the unknown type " + std::to_string(number));
  }
  return static_cast<GgufType>(number);
}

std::pair<GgufType, std::uint64_t> read_array_head(Reader& reader, const std::string& where) {
  const GgufType element = read_type(reader, where);
  const auto count = reader.number<std::uint64_t>(where);
  // A text takes at least its length, an array its type and length.
  const std::uint64_t smallest = element == GgufType::text    ? 8
                                 : element == GgufType::array ? 12
                                                              : of(element).bytes;
  if (count > reader.left() / smallest) {
    reader.fail(where, "truncated: " + std::to_string(count) + " elements of " + of(element).name +
                           ", " + std::to_string(reader.left()) + " bytes are left");
  }
  return {element, count};
}

// Passes over `count` elements of a type.
void skip_elements(Reader& reader, GgufType type, std::uint64_t count, int depth,
                   const std::string& where) {
  if (depth > kDeepest) {
    reader.fail(where, "more than " + std::to_string(kDeepest) + " arrays inside each other");
  }
  if (type == GgufType::text) {
    for (std::uint64_t i = 0; i < count; ++i) reader.text(where);
  } else if (type == GgufType::array) {
    for (std::uint64_t i = 0; i < count; ++i) {
      const auto head = read_array_head(reader, where);
      skip_elements(reader, head.first, head.second, depth + 1, where);
    }
  } else {
    const auto bytes = reader.take(count * of(type).bytes, where);
    if (type != GgufType::boolean) return;
    for (const std::byte b : bytes) {
      if (b > std::byte{1}) {
        reader.fail(where, "holds the boolean " + std::to_string(std::to_integer<int>(b)) +
                               ", must be 0 or 1");
      }
    }
  }
}

GgufValue read_pair(Reader& reader, std::uint64_t index) {
  GgufValue value;
  value.key = reader.name("key " + std::to_string(index) + ": ");
  const std::string where = "key " + std::string(value.key) + ": ";
  value.type = read_type(reader, where);
  if (value.type == GgufType::text) {
    const std::string_view text = reader.text(where);
    value.bytes = std::as_bytes(std::span(text.data(), text.size()));
    return value;
  }
  const bool array = value.type == GgufType::array;
  if (array) std::tie(value.element, value.count) = read_array_head(reader, where);
  const std::uint64_t begin = reader.at();
  skip_elements(reader, array ? value.element : value.type, value.count, 1, where);
  value.bytes = reader.since(begin);
  return value;
}

// The version, after the magic number.
std::uint32_t read_version(Reader& reader) {
  const auto magic = reader.take(4, "");
  if (std::memcmp(magic.data(), "GGUF", 4) != 0) {
    reader.fail("", "does not begin with \"GGUF\" (is this a GGUF file?)");
  }
  const auto version = reader.number<std::uint32_t>("");
  if (version != 0 && (version & 0xffff) == 0) {
    reader.fail("",
                "is big-endian, only little-endian files are read (gguf-py's "
                "gguf_convert_endian.py converts)");
  }
  if (version != 2 && version != 3) {
    reader.fail("", "has version " + std::to_string(version) + ", 2 and 3 are read");
  }
  return version;
}

void check_count(std::uint64_t count, std::uint64_t smallest, std::uint64_t most,
                 const Reader& reader, const std::string& what) {
  if (count > reader.left() / smallest) {
    reader.fail("", "truncated: the header says " + std::to_string(count) + " " + what + ", " +
                        std::to_string(reader.left()) + " bytes are left");
  }
  if (count > most) {
    reader.fail("", "has " + std::to_string(count) + " " + what + ", at most " +
                        std::to_string(most) + " are allowed");
  }
}

std::uint64_t alignment_of(const std::vector<GgufValue>& metadata, const std::string& source) {
  for (const GgufValue& value : metadata) {
    if (value.key != kAlignmentKey) continue;
    const std::string where = source + ": key " + kAlignmentKey + ": ";
    if (value.type != GgufType::u32) {
      throw Error(where + "is " + gguf_type_name(value) + ", must be uint32");
    }
    std::uint32_t alignment = 0;
    std::memcpy(&alignment, value.bytes.data(), sizeof(alignment));
    if (!std::has_single_bit(alignment)) {
      throw Error(where + "is " + std::to_string(alignment) + ", must be a power of two");
    }
    return alignment;
  }
  return kDefaultAlignment;
}

// A tensor's description; begin and end still count from the first byte of tensor data.
TensorEntry read_tensor(Reader& reader, std::uint64_t index) {
  TensorEntry entry;
  entry.name = reader.name("tensor " + std::to_string(index) + ": ");
  const std::string where = "tensor " + entry.name + ": ";
  const auto dimensions = reader.number<std::uint32_t>(where);
  if (dimensions > kMostDimensions) {
    reader.fail(where, "has " + std::to_string(dimensions) + " dimensions, at most " +
                           std::to_string(kMostDimensions) + " are allowed");
  }
  std::uint64_t elements = 1;
  for (std::uint32_t i = 0; i < dimensions; ++i) {
    const auto size = reader.number<std::uint64_t>(where);
    if (size > static_cast<std::uint64_t>(INT64_MAX)) {
      reader.fail(where, "has a dimension of " + std::to_string(size) + ", must be less than 2^63");
    }
    if (__builtin_mul_overflow(elements, size, &elements)) {
      reader.fail(where, "the product of its shape overflows");
    }
    entry.shape.insert(entry.shape.begin(), static_cast<std::int64_t>(size));
  }
  entry.dtype = tensor_type_name(reader.number<std::uint32_t>(where));
  const auto type = weight_type(entry.dtype);
  if (!type) {
    reader.fail(where, "has the type " + entry.dtype + ", which is not known (" +
                           known_weight_types() + ")");
  }
  const std::uint64_t row =
      entry.shape.empty() ? 1 : static_cast<std::uint64_t>(entry.shape.back());
  if (row % block_elements(*type) != 0) {
    reader.fail(where, "has rows of " + std::to_string(row) + ", not whole blocks of " +
                           std::to_string(block_elements(*type)) + " that " + entry.dtype +
                           " needs");
  }
  const auto bytes = weight_bytes(*type, elements);
  const auto offset = reader.number<std::uint64_t>(where);
  std::uint64_t end = 0;
  if (!bytes || __builtin_add_overflow(offset, *bytes, &end)) {
    reader.fail(where, "the size of its shape " + to_string(entry.shape) + " overflows");
  }
  entry.begin = offset;
  entry.end = end;
  return entry;
}

// Moves the tensors to their bytes of the file, each aligned, inside, and apart from the others.
void place_tensors(std::vector<TensorEntry>& tensors, std::uint64_t described,
                   std::uint64_t alignment, std::uint64_t file_size, const std::string& source) {
  const std::uint64_t data_begin = (described + alignment - 1) / alignment * alignment;
  const std::uint64_t data_size = file_size < data_begin ? 0 : file_size - data_begin;
  for (TensorEntry& entry : tensors) {
    const std::string where = source + ": tensor " + entry.name + ": ";
    if (entry.begin % alignment != 0) {
      throw Error(where + "begins at byte " + std::to_string(entry.begin) +
                  " of the data, not a multiple of " + std::to_string(alignment));
    }
    if (entry.end > data_size) {
      throw Error(where + "bytes " + std::to_string(entry.begin) + " to " +
                  std::to_string(entry.end) + " are out of range, the file has " +
                  std::to_string(data_size) + " (truncated?)");
    }
    // An empty tensor may stand at the end of a file that was not padded.
    entry.begin = std::min(data_begin + entry.begin, file_size);
    entry.end = std::min(data_begin + entry.end, file_size);
  }
  std::vector<const TensorEntry*> order;
  order.reserve(tensors.size());
  for (const TensorEntry& entry : tensors) order.push_back(&entry);
  std::sort(order.begin(), order.end(), [](const TensorEntry* a, const TensorEntry* b) {
    return std::pair(a->begin, a->end) < std::pair(b->begin, b->end);
  });
  for (std::size_t i = 1; i < order.size(); ++i) {
    if (order[i]->begin < order[i - 1]->end) {
      throw Error(source + ": tensor " + order[i]->name + ": overlaps tensor " +
                  order[i - 1]->name);
    }
  }
}

}  // namespace

std::string gguf_type_name(const GgufValue& value) {
  if (value.type != GgufType::array) return of(value.type).name;
  return std::string("array of ") + of(value.element).name;
}

Gguf::Gguf(std::span<const std::byte> file, std::string source) : source_(std::move(source)) {
  Reader reader(file, source_);
  version_ = read_version(reader);
  const auto tensors = reader.number<std::uint64_t>("");
  const auto pairs = reader.number<std::uint64_t>("");
  check_count(pairs, kSmallestPair, kMostKeys, reader, "keys");
  check_count(tensors, kSmallestTensor, kMostTensors, reader, "tensors");

  for (std::uint64_t i = 0; i < pairs; ++i) metadata_.push_back(read_pair(reader, i));
  std::sort(metadata_.begin(), metadata_.end(),
            [](const GgufValue& a, const GgufValue& b) { return a.key < b.key; });
  for (std::size_t i = 1; i < metadata_.size(); ++i) {
    if (metadata_[i].key == metadata_[i - 1].key) {
      throw Error(source_ + ": key " + std::string(metadata_[i].key) + ": appears twice");
    }
  }
  const std::uint64_t alignment = alignment_of(metadata_, source_);

  for (std::uint64_t i = 0; i < tensors; ++i) tensors_.push_back(read_tensor(reader, i));
  std::sort(tensors_.begin(), tensors_.end(),
            [](const TensorEntry& a, const TensorEntry& b) { return a.name < b.name; });
  for (std::size_t i = 1; i < tensors_.size(); ++i) {
    if (tensors_[i].name == tensors_[i - 1].name) {
      throw Error(source_ + ": tensor " + tensors_[i].name + ": appears twice");
    }
  }
  place_tensors(tensors_, reader.at(), alignment, file.size(), source_);
}

}  // namespace attn
