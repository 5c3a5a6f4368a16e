// Holds a context's workspace for one run, and refuses a second run at the same time.
#pragma once

#include "attn/context.h"

namespace attn {

class ContextUse {
 public:
  // Throws std::invalid_argument when the context is in use: by another thread, or by the run whose
  // custom score is calling.
  explicit ContextUse(const Context& context);
  ~ContextUse();
  ContextUse(const ContextUse&) = delete;
  ContextUse& operator=(const ContextUse&) = delete;

 private:
  const Context& context_;
};

}  // namespace attn
