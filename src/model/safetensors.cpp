#include "model/safetensors.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <set>
#include <utility>

#include "attn/error.h"
#include "model/json.h"

namespace attn {
namespace {

static_assert(std::endian::native == std::endian::little, "tensors are read where they lie");

// What the reference implementation allows.
constexpr std::uint64_t kLongestHeader = 100'000'000;
constexpr std::size_t kMostShards = 4096;

// Bits of an element; 0 for a type that the format does not know.
std::uint64_t bits_of(std::string_view dtype) {
  static constexpr std::pair<std::string_view, std::uint64_t> kTypes[] = {
      {"BOOL", 8}, {"U8", 8},   {"I8", 8},   {"F8_E5M2", 8}, {"F8_E4M3", 8}, {"F8_E8M0", 8},
      {"I16", 16}, {"U16", 16}, {"F16", 16}, {"BF16", 16},   {"I32", 32},    {"U32", 32},
      {"F32", 32}, {"I64", 64}, {"U64", 64}, {"F64", 64},    {"C64", 64}};
  for (const auto& [name, bits] : kTypes) {
    if (name == dtype) return bits;
  }
  return 0;
}

std::uint64_t read_header_length(std::span<const std::byte> file, const std::string& source) {
  if (file.size() < 8) {
    throw Error(source + ": truncated: " + std::to_string(file.size()) +
                " bytes, a safetensors file starts with 8 bytes of header length");
  }
  std::uint64_t length = 0;
  std::memcpy(&length, file.data(), 8);
  if (length > kLongestHeader) {
    throw Error(source + ": the header says " + std::to_string(length) + " bytes, at most " +
                std::to_string(kLongestHeader) + " are allowed (is this a safetensors file?)");
  }
  if (length > file.size() - 8) {
    throw Error(source + ": truncated: the header says " + std::to_string(length) +
                " bytes, the file has " + std::to_string(file.size() - 8) + " after its length");
  }
  return length;
}

const Json& member(const Json& tensor, const char* name, Json::Kind kind, const char* wanted,
                   const std::string& where) {
  const Json* const value = tensor.find(name);
  if (value == nullptr) throw Error(where + "has no \"" + name + "\"");
  if (!value->is(kind)) {
    throw Error(where + "\"" + name + "\" is " + value->kind_name() + ", must be " + wanted);
  }
  return *value;
}

std::int64_t size_value(const Json& value, const char* name, const std::string& where) {
  if (!value.is(Json::Kind::integer) || value.integer < 0) {
    throw Error(where + "\"" + name + "\" holds " +
                (value.is_number() ? std::to_string(value.real) : value.kind_name()) +
                ", must be integers in [0, 2^63)");
  }
  return value.integer;
}

TensorEntry read_entry(const std::string& name, const Json& tensor, std::uint64_t data_begin,
                       std::uint64_t data_size, const std::string& source) {
  const std::string where = source + ": tensor " + name + ": ";
  if (!tensor.is(Json::Kind::object)) {
    throw Error(where + "is " + tensor.kind_name() + ", must be an object");
  }
  for (const std::string& key : tensor.names) {
    if (key != "dtype" && key != "shape" && key != "data_offsets") {
      throw Error(where + "has an unknown field \"" + key + "\"");
    }
  }
  TensorEntry entry;
  entry.name = name;
  entry.dtype = member(tensor, "dtype", Json::Kind::text, "a string", where).text;
  const std::uint64_t bits = bits_of(entry.dtype);
  if (bits == 0) throw Error(where + "has the unknown type \"" + entry.dtype + "\"");

  std::uint64_t elements = 1;
  for (const Json& value : member(tensor, "shape", Json::Kind::array, "an array", where).items) {
    const std::int64_t size = size_value(value, "shape", where);
    entry.shape.push_back(size);
    if (__builtin_mul_overflow(elements, static_cast<std::uint64_t>(size), &elements)) {
      throw Error(where + "the product of its shape overflows");
    }
  }
  std::uint64_t bytes = 0;
  if (__builtin_mul_overflow(elements, bits / 8, &bytes)) {
    throw Error(where + "the size of its shape " + to_string(entry.shape) + " overflows");
  }

  const Json& offsets = member(tensor, "data_offsets", Json::Kind::array, "an array", where);
  if (offsets.items.size() != 2) {
    throw Error(where + "\"data_offsets\" has " + std::to_string(offsets.items.size()) +
                " numbers, must be 2");
  }
  const auto begin =
      static_cast<std::uint64_t>(size_value(offsets.items[0], "data_offsets", where));
  const auto end = static_cast<std::uint64_t>(size_value(offsets.items[1], "data_offsets", where));
  const std::string range = "bytes " + std::to_string(begin) + " to " + std::to_string(end);
  if (begin > end) throw Error(where + range + " run backwards");
  if (end > data_size) {
    throw Error(where + range + " are out of range, the file has " + std::to_string(data_size) +
                " (truncated?)");
  }
  if (end - begin != bytes) {
    throw Error(where + range + " are " + std::to_string(end - begin) + ", but " + entry.dtype +
                " " + to_string(entry.shape) + " takes " + std::to_string(bytes));
  }
  entry.begin = static_cast<std::size_t>(data_begin + begin);
  entry.end = static_cast<std::size_t>(data_begin + end);
  return entry;
}

// The format wants every byte after the header to belong to exactly one tensor.
void check_layout(const std::vector<TensorEntry>& entries, std::size_t data_begin,
                  std::size_t file_size, const std::string& source) {
  std::vector<const TensorEntry*> order;
  order.reserve(entries.size());
  for (const TensorEntry& entry : entries) order.push_back(&entry);
  std::sort(order.begin(), order.end(), [](const TensorEntry* a, const TensorEntry* b) {
    return std::pair(a->begin, a->end) < std::pair(b->begin, b->end);
  });
  std::size_t at = data_begin;
  const TensorEntry* before = nullptr;
  for (const TensorEntry* entry : order) {
    if (entry->begin < at) {
      throw Error(source + ": tensor " + entry->name + ": overlaps tensor " + before->name);
    }
    if (entry->begin > at) {
      throw Error(source + ": tensor " + entry->name + ": " + std::to_string(entry->begin - at) +
                  " bytes before it belong to no tensor");
    }
    at = entry->end;
    before = entry;
  }
  if (at != file_size) {
    throw Error(source + ": " + std::to_string(file_size - at) +
                " bytes at the end belong to no tensor");
  }
}

// What an index may name: a file beside it, nothing elsewhere.
void check_shard(std::string_view shard, const std::string& where) {
  constexpr std::string_view kExtension = ".safetensors";
  const bool plain = shard.find_first_of(std::string_view("/\\\0", 3)) == shard.npos &&
                     shard.find("..") == shard.npos;
  if (!plain || !shard.ends_with(kExtension) || shard.size() > 255) {
    throw Error(where + "must be in a .safetensors file of the same folder, is in \"" +
                std::string(shard) + "\"");
  }
}

}  // namespace

std::vector<TensorEntry> parse_safetensors(std::span<const std::byte> file,
                                           const std::string& source) {
  const std::uint64_t length = read_header_length(file, source);
  const std::string_view text(reinterpret_cast<const char*>(file.data()) + 8,
                              static_cast<std::size_t>(length));
  if (text.empty() || text.front() != '{') {
    throw Error(source + ": the header does not start with '{'");
  }
  const Json header = Json::parse(text, source);
  const std::uint64_t data_begin = 8 + length;
  std::vector<TensorEntry> entries;
  for (std::size_t i = 0; i < header.names.size(); ++i) {
    const std::string& name = header.names[i];
    if (name == "__metadata__") continue;
    entries.push_back(
        read_entry(name, header.items[i], data_begin, file.size() - data_begin, source));
  }
  check_layout(entries, static_cast<std::size_t>(data_begin), file.size(), source);
  return entries;
}

std::vector<ShardedTensor> parse_safetensors_index(std::string_view json,
                                                   const std::string& source) {
  const Json tree = Json::parse(json, source);
  if (!tree.is(Json::Kind::object)) {
    throw Error(source + ": holds " + tree.kind_name() + ", must be an object");
  }
  const Json& map = member(tree, "weight_map", Json::Kind::object, "an object", source + ": ");
  std::vector<ShardedTensor> tensors;
  std::set<std::string_view> shards;
  for (std::size_t i = 0; i < map.names.size(); ++i) {
    const std::string where = source + ": tensor " + map.names[i] + ": ";
    const Json& shard = map.items[i];
    if (!shard.is(Json::Kind::text)) {
      throw Error(where + "is " + shard.kind_name() + ", must be the name of a file");
    }
    check_shard(shard.text, where);
    shards.insert(shard.text);
    tensors.push_back({map.names[i], shard.text});
  }
  if (shards.size() > kMostShards) {
    throw Error(source + ": names " + std::to_string(shards.size()) + " files, at most " +
                std::to_string(kMostShards) + " are allowed");
  }
  return tensors;
}

}  // namespace attn
