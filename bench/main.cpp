// attn_bench [--isa NAME] [--threads N] [--quick] [--out FILE]
//
// Without --isa, one child process an instruction set: OpenBLAS takes its core type from the
// environment once a process.
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <stdexcept>
#include <string>
#include <vector>

#include "bench/bench.h"
#include "kernels/ceiling.h"

namespace {

using namespace attn;
using namespace attn::bench;

struct Arguments {
  std::string isa, out = "build/bench/attention.json";
  int threads = 0;  // 0: one, then all
  bool quick = false;
};

const char* const kUsage =
    "usage: attn_bench [--isa avx512|avx2|scalar] [--threads N] [--quick] [--out FILE]\n"
    "Prints the standard table and writes it as JSON (default build/bench/attention.json).\n"
    "--quick takes 5 samples a row and leaves out the longest shapes.\n";

Arguments parse(int argc, char** argv) {
  Arguments arguments;
  for (int i = 1; i < argc; ++i) {
    const std::string word = argv[i];
    const auto value = [&]() -> std::string {
      if (i + 1 >= argc) throw std::invalid_argument(word + " needs a value");
      return argv[++i];
    };
    if (word == "--isa")
      arguments.isa = value();
    else if (word == "--threads")
      arguments.threads = std::stoi(value());
    else if (word == "--out")
      arguments.out = value();
    else if (word == "--quick")
      arguments.quick = true;
    else
      throw std::invalid_argument("unknown argument " + word + "\n" + kUsage);
  }
  return arguments;
}

std::vector<Job> standard_jobs(bool quick) {
  std::vector<Job> jobs = {
      {{1, 12, 12, 512, 512, 64}},
      {{1, 12, 12, 2048, 2048, 64}},
      {{1, 8, 8, 8192, 8192, 64}},
      {{1, 8, 8, 4096, 4096, 128}},
      {{8, 12, 12, 128, 128, 64}},
      {{1, 12, 12, 2048, 2048, 64}, "causal"},
      {{1, 32, 8, 2048, 2048, 128}, "causal"},
      {{1, 12, 12, 2048, 2048, 64}, "causal", "alibi"},
      {{1, 8, 8, 8192, 8192, 64}, "window:255,0", "none", false},
  };
  if (quick)
    std::erase_if(jobs, [](const Job& job) { return job.shape[3] > 2048 && job.mask == "full"; });
  return jobs;
}

// One head at lengths whose score matrix would take 17 and 69 GB: what memory they take here.
std::vector<Job> long_jobs() {
  return {{{1, 1, 1, 65536, 65536, 64}, "causal", "none", false},
          {{1, 1, 1, 131072, 131072, 64}, "causal", "none", false},
          {{1, 1, 1, 131072, 131072, 64}, "window:255,0", "none", false}};
}

std::vector<Row> run_isa(Isa isa, const Arguments& arguments) {
  std::vector<Row> rows;
  const int all = Context().threads();
  std::vector<int> counts = {1};
  if (arguments.threads > 0)
    counts = {arguments.threads};
  else if (all > 1)
    counts.push_back(all);
  const Limits limits{.samples = arguments.quick ? 5 : 15};
  for (const int threads : counts) {
    double ceiling = 0, one = 0;
    for (int i = 0; i < 5; ++i) {
      ceiling = std::max(ceiling, kernels::fma_ceiling_gflops(isa, DType::f32, threads, 0.05));
      one = std::max(one, kernels::fma_ceiling_gflops(isa, DType::f32, 1, 0.05));
    }
    std::vector<Row> of_count;
    const auto run_jobs = [&](const std::vector<Job>& jobs, const Limits& how) {
      for (std::size_t i = 0; i < jobs.size(); ++i) {
        if (isatty(STDERR_FILENO)) {
          std::fprintf(stderr, "\r%s, %d threads: %zu of %zu \r", name(isa), threads, i + 1,
                       jobs.size());
        }
        const std::vector<Row> measured = measure(jobs[i], isa, threads, how);
        of_count.insert(of_count.end(), measured.begin(), measured.end());
      }
    };
    run_jobs(standard_jobs(arguments.quick), limits);
    if (!arguments.quick && threads == counts.back()) run_jobs(long_jobs(), {.samples = 1});
    judge(of_count, ceiling);
    char title[200];
    std::snprintf(title, sizeof title, "%s, %d thread%s: FMA ceiling %.1f GFLOP/s", name(isa),
                  threads, threads == 1 ? "" : "s", of_count.front().ceiling_gflops);
    print_header(title);
    if (of_count.front().ceiling_gflops < 0.75 * threads * one) {
      std::printf("note: %d threads reach %.2f times one; they seem to share a core\n", threads,
                  of_count.front().ceiling_gflops / one);
    }
    for (const Row& row : of_count) print_row(row);
    rows.insert(rows.end(), of_count.begin(), of_count.end());
  }
  return rows;
}

// How much cheaper a window is than everything, at the shape where both are in the table.
void print_ratios(const std::vector<Row>& rows) {
  for (const Row& window : rows) {
    if (window.mask != "window:255,0" || window.shape[3] != 8192) continue;
    for (const Row& full : rows) {
      if (full.mask == "full" && full.peer.empty() && full.shape == window.shape &&
          full.isa == window.isa && full.threads == window.threads) {
        std::printf("%s, %d thread%s: window(255, 0) at 8192 is %.1f times faster than full\n",
                    name(window.isa), window.threads, window.threads == 1 ? "" : "s",
                    full.ms / window.ms);
      }
    }
  }
}

int run_child(const char* self, Isa isa, const Arguments& arguments, const std::string& out) {
  std::fflush(nullptr);
  const pid_t child = fork();
  if (child < 0) throw std::runtime_error("cannot fork");
  if (child == 0) {
    std::vector<std::string> words = {self, "--isa", name(isa), "--out", out};
    if (arguments.threads > 0)
      words.insert(words.end(), {"--threads", std::to_string(arguments.threads)});
    if (arguments.quick) words.emplace_back("--quick");
    std::vector<char*> raw;
    for (std::string& word : words) raw.push_back(word.data());
    raw.push_back(nullptr);
    execv("/proc/self/exe", raw.data());
    _exit(127);
  }
  int status = 0;
  waitpid(child, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : 1;
}

int run(int argc, char** argv) {
  const Arguments arguments = parse(argc, argv);
  const std::filesystem::path out(arguments.out);
  if (out.has_parent_path()) std::filesystem::create_directories(out.parent_path());
  if (!arguments.isa.empty()) {
    write_json(run_isa(isa_from_name(arguments.isa), arguments), arguments.out);
    return 0;
  }
  const Machine& m = machine();
  std::printf("%s, %d usable thread%s%s, L1 %lld KiB, L2 %lld KiB\n", m.cpu.c_str(),
              m.usable_threads, m.usable_threads == 1 ? "" : "s",
              m.threads_share_core ? " (sharing a core)" : "",
              static_cast<long long>(m.l1d_bytes >> 10), static_cast<long long>(m.l2_bytes >> 10));
  std::printf(
      "share: best time against best ceiling; median: of the samples, each against the ceiling\n"
      "beside it; spread: (slowest - fastest) / median; peak: resident above inputs and outputs\n");
  std::vector<Row> rows;
  for (const Isa isa : supported_isas()) {
    if (isa == Isa::scalar) continue;  // the portable baseline is for correctness
    const std::string part = arguments.out + "." + name(isa);
    if (run_child(argv[0], isa, arguments, part) != 0) return 1;
    const std::vector<Row> its = read_json(part);
    rows.insert(rows.end(), its.begin(), its.end());
    std::filesystem::remove(part);
  }
  write_json(rows, arguments.out);
  std::printf("\n");
  print_ratios(rows);
  std::printf("written: %s\n", std::filesystem::absolute(out).c_str());
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    return run(argc, argv);
  } catch (const std::exception& e) {
    std::fprintf(stderr, "attn_bench: %s\n", e.what());
    return 1;
  }
}
