#include "base/threads.h"

#include <unistd.h>

#include <atomic>

namespace attn {

int threads_to_start(int wanted) {
  if (wanted <= 1) return wanted;
  static std::atomic<pid_t> first{0};  // process that started threads
  const pid_t self = getpid();
  pid_t known = 0;
  return first.compare_exchange_strong(known, self) || known == self ? wanted : 1;
}

}  // namespace attn
