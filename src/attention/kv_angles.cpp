#include "attention/kv_angles.h"

#include <algorithm>
#include <cmath>

namespace attn {

// Row p is the rotation to p - p % kBlock, turned on by p % kBlock: two sines and cosines a block
// instead of one a position. Products are in double.
void KvAngles::add(const RopeTable& table, std::int64_t first, std::int64_t count) {
  constexpr std::int64_t kBlock = 64;
  pairs = static_cast<std::int64_t>(table.frequency.size());
  const auto n = static_cast<std::size_t>(pairs);
  std::size_t at = cosines.size();
  cosines.resize(at + n * static_cast<std::size_t>(count));
  sines.resize(cosines.size());
  std::vector<double> fine_cosine(n * kBlock), fine_sine(n * kBlock), cosine(n), sine(n);
  for (std::size_t r = 0; r < kBlock; ++r) {
    for (std::size_t i = 0; i < n; ++i) {
      const double angle = static_cast<double>(r) * table.frequency[i];
      fine_cosine[r * n + i] = std::cos(angle);
      fine_sine[r * n + i] = std::sin(angle);
    }
  }
  std::int64_t block = -1;
  for (std::int64_t p = first; p < first + count; ++p, at += n) {
    if (p / kBlock != block) {
      block = p / kBlock;
      for (std::size_t i = 0; i < n; ++i) {
        const double angle = static_cast<double>(block * kBlock) * table.frequency[i];
        cosine[i] = table.magnitude * std::cos(angle);
        sine[i] = table.magnitude * std::sin(angle);
      }
    }
    const double* c = fine_cosine.data() + static_cast<std::size_t>(p % kBlock) * n;
    const double* s = fine_sine.data() + static_cast<std::size_t>(p % kBlock) * n;
    for (std::size_t i = 0; i < n; ++i) {
      cosines[at + i] = static_cast<float>(cosine[i] * c[i] - sine[i] * s[i]);
      sines[at + i] = static_cast<float>(sine[i] * c[i] + cosine[i] * s[i]);
    }
  }
}

bool KvAngleTables::moves(std::int64_t length) const {
  return options_.scaling.kind == RopeScaling::Kind::dynamic_ntk &&
         length > options_.scaling.original_length;
}

std::shared_ptr<const KvAngles> KvAngleTables::fixed(std::int64_t length) {
  const std::int64_t rows = shared_ ? shared_->rows() : 0;
  if (!shared_ || rows < length) {
    auto grown = shared_ ? std::make_shared<KvAngles>(*shared_) : std::make_shared<KvAngles>();
    grown->add(fixed_, rows, std::max<std::int64_t>({length, 2 * rows, 64}) - rows);
    shared_ = std::move(grown);
  }
  return shared_;
}

void KvAngleTables::add(std::int64_t length, const std::vector<std::int64_t>& positions,
                        KvAngles& to) const {
  const RopeTable table = moves(length) ? rope_table(options_, width_, length) : fixed_;
  for (std::size_t i = 0; i < positions.size();) {
    std::size_t end = i + 1;
    while (end < positions.size() && positions[end] == positions[end - 1] + 1) ++end;
    to.add(table, positions[i], static_cast<std::int64_t>(end - i));
    i = end;
  }
}

}  // namespace attn
