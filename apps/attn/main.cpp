// attn: run a model, look into its heads, plan attention. Exit 0: done; 1: it failed; 2: the
// arguments are wrong.
#include <cstdio>
#include <exception>
#include <new>
#include <stdexcept>
#include <string>
#include <variant>

#include "arguments.h"
#include "terminal.h"

namespace {

template <class... F>
struct Overloaded : F... {
  using F::operator()...;
};
template <class... F>
Overloaded(F...) -> Overloaded<F...>;

int fail(std::string what, int code) {
  for (char& c : what) {
    if (c == '\n' || c == '\r') c = ' ';
  }
  what = "attn: " + what + "\n";
  std::fwrite(what.data(), 1, what.size(), stderr);
  return code;
}

}  // namespace

int main(int argc, char** argv) {
  attn::cli::prepare_signals();
  try {
    std::visit(
        Overloaded{
            [](const attn::cli::Answer& answer) { attn::cli::print(answer.text); },
            [](const attn::cli::RunOptions& options) { attn::cli::run(options); },
            [](const attn::cli::LookOptions& options) { attn::cli::look(options); },
            [](const attn::cli::GenerateOptions& options) { attn::cli::generate(options); },
            [](const attn::cli::ScoreCommand& options) { attn::cli::score(options); },
            [](const attn::cli::TranslateOptions& options) { attn::cli::translate(options); },
            [](const attn::cli::HeadsOptions& options) { attn::cli::heads(options); },
            [](const attn::cli::ExplainOptions& options) { attn::cli::explain(options); },
            [](const attn::cli::BenchOptions& options) { attn::cli::bench(options); },
            [](const attn::cli::CurvesOptions& options) { attn::cli::curves(options); },
            [](const attn::cli::GetOptions& options) { attn::cli::get(options); },
            [](const attn::cli::DoctorOptions& options) { attn::cli::doctor(options); },
        },
        attn::cli::parse(argc, argv));
  } catch (const std::invalid_argument& error) {
    return fail(error.what(), 2);
  } catch (const std::bad_alloc&) {
    return fail("out of memory", 1);
  } catch (const std::exception& error) {
    return fail(error.what(), 1);
  }
  return 0;
}
