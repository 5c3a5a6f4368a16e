#include "attn/context.h"

// clang-format off: must come first
#include "base/targets.h"
// clang-format on

#include <hwy/highway.h>
#include <hwy/targets.h>

#include <atomic>
#include <new>
#include <stdexcept>

#include "base/context_use.h"

namespace attn {

namespace {

struct Scratch {
  void* memory = nullptr;
  std::size_t bytes = 0;
};

constexpr std::align_val_t kAlignment{4096};

}  // namespace

struct Context::Impl {
  int threads = 1;
  Isa isa = Isa::scalar;
  std::vector<Scratch> scratch;
  std::atomic<bool> busy{false};

  ~Impl() {
    for (Scratch& s : scratch) ::operator delete(s.memory, kAlignment);
  }
};

const char* name(Isa isa) {
  switch (isa) {
    case Isa::automatic: return "automatic";
    case Isa::scalar: return "scalar";
    case Isa::avx2: return "avx2";
    case Isa::avx512: return "avx512";
    case Isa::neon: return "neon";
  }
  return "unknown";
}

Isa isa_from_name(const std::string& s) {
  for (Isa isa : {Isa::automatic, Isa::scalar, Isa::avx2, Isa::avx512, Isa::neon}) {
    if (s == name(isa)) return isa;
  }
  throw std::invalid_argument("[isa] '" + s +
                              "' is not one of automatic, scalar, avx2, avx512, neon");
}

std::vector<Isa> supported_isas() {
  std::vector<Isa> isas;
  const std::int64_t targets = hwy::SupportedTargets() & HWY_TARGETS;
  if (targets & HWY_AVX3) isas.push_back(Isa::avx512);
  if (targets & HWY_AVX2) isas.push_back(Isa::avx2);
  if (targets & HWY_NEON) isas.push_back(Isa::neon);
  isas.push_back(Isa::scalar);
  return isas;
}

Context::Context(const ContextOptions& options) : impl_(std::make_shared<Impl>()) {
  if (options.threads < 0) {
    throw std::invalid_argument("[context] threads is " + std::to_string(options.threads) +
                                ", must be 0 (automatic) or more");
  }
  impl_->threads = options.threads > 0 ? options.threads : attn::machine().usable_threads;
  const std::vector<Isa> isas = supported_isas();
  impl_->isa = isas.front();
  if (options.isa != Isa::automatic) {
    bool found = false;
    std::string known;
    for (Isa isa : isas) {
      found = found || isa == options.isa;
      known += (known.empty() ? "" : ", ") + std::string(name(isa));
    }
    if (!found) {
      throw std::invalid_argument("[context] this CPU or build has no " +
                                  std::string(name(options.isa)) + "; it has " + known);
    }
    impl_->isa = options.isa;
  }
  impl_->scratch.resize(static_cast<std::size_t>(impl_->threads));
}

int Context::threads() const { return impl_->threads; }
Isa Context::isa() const { return impl_->isa; }
const Machine& Context::machine() const { return attn::machine(); }

void* Context::workspace(int thread, std::size_t bytes) const {
  Scratch& s = impl_->scratch.at(static_cast<std::size_t>(thread));
  if (s.bytes < bytes) {
    void* larger = ::operator new(bytes, kAlignment);
    ::operator delete(s.memory, kAlignment);
    s = {larger, bytes};
  }
  return s.memory;
}

std::size_t Context::workspace_bytes() const {
  std::size_t total = 0;
  for (const Scratch& s : impl_->scratch) total += s.bytes;
  return total;
}

ContextUse::ContextUse(const Context& context) : context_(context) {
  if (context.impl_->busy.exchange(true, std::memory_order_acquire)) {
    throw std::invalid_argument(
        "[context] already running: use one context a calling thread, and another one inside a "
        "custom score");
  }
}

ContextUse::~ContextUse() { context_.impl_->busy.store(false, std::memory_order_release); }

const char* version() { return ATTN_VERSION; }

}  // namespace attn
