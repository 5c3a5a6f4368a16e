#include "model/weights.h"

#include <algorithm>
#include <filesystem>
#include <map>
#include <system_error>

#include "attn/error.h"
#include "model/safetensors.h"

namespace attn {
namespace fs = std::filesystem;
namespace {

bool begins_with(std::span<const std::byte> bytes, std::string_view start) {
  return std::string_view(reinterpret_cast<const char*>(bytes.data()), bytes.size())
      .starts_with(start);
}

// PyTorch's files: a zip since version 1.6, a bare pickle (protocol 2 to 5) before.
bool is_pickle(std::span<const std::byte> bytes) {
  return begins_with(bytes, "PK\x03\x04") || (bytes.size() >= 2 && bytes[0] == std::byte{0x80} &&
                                              bytes[1] >= std::byte{2} && bytes[1] <= std::byte{5});
}

[[noreturn]] void refuse_pickle(const std::string& path) {
  const std::string name = fs::path(path).filename().string();
  throw Error(path +
              ": is a pickle file of PyTorch. Loading one can run any code that was put into it, "
              "so it is refused. Where you trust it, convert it (pip install torch safetensors):\n"
              "  import torch, safetensors.torch; w = torch.load(\"" +
              name +
              "\", map_location=\"cpu\", weights_only=True)\n"
              "  safetensors.torch.save_file({k: v.contiguous().clone() for k, v in w.items()}, "
              "\"model.safetensors\")");
}

// Files of a folder with one of these extensions, sorted.
std::vector<std::string> files_of(const std::string& folder,
                                  std::initializer_list<std::string_view> extensions) {
  std::vector<std::string> found;
  std::error_code failed, ignored;
  for (fs::directory_iterator at(folder, failed), end; !failed && at != end; at.increment(failed)) {
    const std::string extension = at->path().extension().string();
    if (std::find(extensions.begin(), extensions.end(), extension) != extensions.end() &&
        fs::is_regular_file(at->path(), ignored)) {
      found.push_back(at->path().string());
    }
  }
  if (failed) throw Error(folder + ": cannot be listed: " + failed.message());
  std::sort(found.begin(), found.end());
  return found;
}

// The one file of a folder without shards.
std::string file_in(const std::string& folder) {
  const std::string usual = folder + "/model.safetensors";
  std::error_code ignored;
  if (fs::exists(usual, ignored)) return usual;
  const std::vector<std::string> gguf = files_of(folder, {".gguf"});
  if (gguf.size() > 1) {
    throw Error(folder + ": has " + std::to_string(gguf.size()) +
                " .gguf files; name the one that is meant");
  }
  if (gguf.size() == 1) return gguf[0];
  const std::string binary = folder + "/model.bin";
  if (fs::exists(binary, ignored) && is_ctranslate2(MappedFile(binary).bytes())) return binary;
  for (const std::string& path : files_of(folder, {".bin", ".ckpt", ".pt", ".pth"})) {
    if (is_pickle(MappedFile(path).bytes())) refuse_pickle(path);
  }
  return usual;  // whose absence is the error
}

std::uint64_t elements_of(const TensorEntry& entry) {
  std::uint64_t count = 1;
  for (const std::int64_t size : entry.shape) count *= static_cast<std::uint64_t>(size);
  return count;
}

}  // namespace

Weights::Weights(const std::string& path) {
  std::error_code ignored;
  if (!fs::is_directory(path, ignored)) {
    open_file(path);
  } else if (const std::string index = path + "/model.safetensors.index.json";
             fs::exists(index, ignored) && !fs::exists(path + "/model.safetensors", ignored)) {
    open_shards(path, index);
  } else {
    open_file(file_in(path));
  }
  copies_.resize(entries_.size());
}

const MappedFile& Weights::map(const std::string& path) {
  return *files_.emplace_back(std::make_unique<MappedFile>(path));
}

void Weights::add(TensorEntry entry, const MappedFile& file) {
  entries_.push_back(std::move(entry));
  places_.push_back(&file);
}

void Weights::open_file(const std::string& path) {
  source_ = path;
  const MappedFile& file = map(path);
  const std::span<const std::byte> bytes = file.bytes();
  const std::string extension = fs::path(path).extension().string();
  if (extension == ".gguf" || begins_with(bytes, "GGUF")) {
    gguf_.emplace(bytes, path);
    if (gguf_->has("split.count") && gguf_->integer("split.count") > 1) {
      throw Error(path + ": is one of " + std::to_string(gguf_->integer("split.count")) +
                  " parts of a model; join them first (llama-gguf-split --merge)");
    }
    for (const TensorEntry& entry : gguf_->tensors()) add(entry, file);
    return;
  }
  if (extension == ".bin" && is_ctranslate2(bytes)) {
    ctranslate2_.emplace(bytes, path);
    for (const TensorEntry& entry : ctranslate2_->tensors()) add(entry, file);
    return;
  }
  // A safetensors file may begin with the bytes of a bare pickle: they are a length.
  if (extension != ".safetensors" && is_pickle(bytes)) refuse_pickle(path);
  for (TensorEntry& entry : parse_safetensors(bytes, path)) add(std::move(entry), file);
}

void Weights::open_shards(const std::string& folder, const std::string& index) {
  source_ = index;
  std::map<std::string, std::vector<std::string>> shards;  // names of tensors by shard
  for (auto& [tensor, shard] : parse_safetensors_index(read_file(index), index)) {
    shards[shard].push_back(std::move(tensor));
  }
  std::vector<std::pair<TensorEntry, const MappedFile*>> found;
  for (const auto& [shard, tensors] : shards) {
    const MappedFile& file = map(folder + "/" + shard);
    std::vector<TensorEntry> entries = parse_safetensors(file.bytes(), file.path());
    auto entry = entries.begin();
    for (const std::string& name : tensors) {  // both are sorted
      while (entry != entries.end() && entry->name < name) ++entry;
      if (entry == entries.end() || entry->name != name) {
        throw Error(index + ": tensor " + name + ": is not in " + shard);
      }
      found.emplace_back(std::move(*entry++), &file);
    }
  }
  std::sort(found.begin(), found.end(),
            [](const auto& a, const auto& b) { return a.first.name < b.first.name; });
  for (auto& [entry, file] : found) add(std::move(entry), *file);
}

const TensorEntry* Weights::find(std::string_view name) const {
  const auto at =
      std::lower_bound(entries_.begin(), entries_.end(), name,
                       [](const TensorEntry& entry, std::string_view n) { return entry.name < n; });
  return at != entries_.end() && at->name == name ? &*at : nullptr;
}

StoredTensor Weights::stored(std::string_view name, const std::vector<std::int64_t>& shape) const {
  const TensorEntry* const entry = find(name);
  if (entry == nullptr) throw Error(source_ + ": tensor " + std::string(name) + ": is missing");
  const MappedFile& file = *places_[static_cast<std::size_t>(entry - entries_.data())];
  const std::string where = file.path() + ": tensor " + entry->name + ": ";
  const auto type = weight_type(entry->dtype);
  if (!type) {
    throw Error(where + "has type " + entry->dtype + ", must be one of " + known_weight_types());
  }
  if (entry->shape != shape) {
    throw Error(where + "has shape " + to_string(entry->shape) + ", the configuration says " +
                to_string(shape));
  }
  return {*type, file.bytes().subspan(entry->begin, entry->end - entry->begin)};
}

const float* Weights::floats(std::string_view name, const std::vector<std::int64_t>& shape) {
  const StoredTensor tensor = stored(name, shape);
  const std::byte* const data = tensor.bytes.data();
  if (tensor.type == WeightType::f32 &&
      reinterpret_cast<std::uintptr_t>(data) % alignof(float) == 0) {
    return reinterpret_cast<const float*>(data);
  }
  const TensorEntry* const entry = find(name);
  std::unique_ptr<float[]>& copy = copies_[static_cast<std::size_t>(entry - entries_.data())];
  if (!copy) {
    const std::uint64_t count = elements_of(*entry);
    copy.reset(new float[count]);
    const std::int64_t width = shape.empty() ? 1 : shape.back();
    if (count > 0) {
      rows_to_floats(tensor.type, tensor.bytes, width, 0, static_cast<std::int64_t>(count) / width,
                     {copy.get(), count});
      places_[static_cast<std::size_t>(entry - entries_.data())]->release(tensor.bytes);
    }
  }
  return copy.get();
}

std::int64_t Weights::parameters() const {
  std::uint64_t count = 0;
  for (const TensorEntry& entry : entries_) {
    const char first = entry.dtype.front();  // F32, BF16, Q8_0, ...
    if ((first == 'F' || first == 'B' || first == 'Q') && entry.dtype != "BOOL") {
      count += elements_of(entry);
    }
  }
  return static_cast<std::int64_t>(count);
}

}  // namespace attn
