// A process that was forked after its parent had run several threads, which did not follow it.
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <numeric>
#include <vector>

#include "attn/attention.h"

namespace attn {
namespace {

TEST(Fork, AChildRunsOnOneThread) {
#ifdef __SANITIZE_THREAD__
  GTEST_SKIP() << "ThreadSanitizer does not follow forks of several threads";
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
  GTEST_SKIP() << "ThreadSanitizer does not follow forks of several threads";
#endif
#endif
  const Shape shape{1, 8, 200, 16};
  std::vector<float> q(8 * 200 * 16);
  std::iota(q.begin(), q.end(), 0.0f);
  for (float& x : q) x = static_cast<float>(static_cast<int>(x) % 17) / 17;
  const ConstTensor in{q.data(), shape};
  const Context context({.threads = 3});
  const auto run = [&] {
    std::vector<float> out(q.size());
    attention(in, in, in, {out.data(), shape}, {.mask = Mask::causal()}, context);
    return out;
  };
  const std::vector<float> expected = run();
  const pid_t child = fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    alarm(60);  // a region that waits for threads that are not there never ends
    _exit(run() == expected ? 0 : 1);
  }
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFEXITED(status)) << "killed by signal " << WTERMSIG(status);
  EXPECT_EQ(WEXITSTATUS(status), 0);
  EXPECT_EQ(run(), expected);  // the parent keeps its threads
}

}  // namespace
}  // namespace attn
