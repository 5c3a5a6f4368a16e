// attn run: embeddings of texts and how alike they are.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <span>

#include "arguments.h"
#include "attn/model.h"
#include "json.h"
#include "models.h"
#include "terminal.h"

namespace attn::cli {

namespace {

constexpr std::size_t kTableTexts = 16;    // more do not fit a terminal; JSON has them all
constexpr std::size_t kComparable = 4096;  // more would make a matrix of gigabytes
constexpr std::size_t kBatch = 32;         // texts between two lines of progress

// Cosine of every pair; 0 where a vector is zero.
std::vector<std::vector<double>> similarities(const std::vector<RunReport::Text>& texts) {
  const auto dot = [](const std::vector<float>& a, const std::vector<float>& b) {
    double sum = 0;
    for (std::size_t i = 0; i < a.size(); ++i) sum += static_cast<double>(a[i]) * b[i];
    return sum;
  };
  const std::size_t n = texts.size();
  std::vector<double> norm(n);
  for (std::size_t i = 0; i < n; ++i) {
    norm[i] = std::sqrt(dot(texts[i].embedding, texts[i].embedding));
  }
  std::vector<std::vector<double>> matrix(n, std::vector<double>(n, 1.0));
  for (std::size_t i = 0; i < n; ++i) {
    for (std::size_t j = 0; j < i; ++j) {
      const double product = norm[i] * norm[j];
      matrix[i][j] = product > 0 ? dot(texts[i].embedding, texts[j].embedding) / product : 0;
      matrix[j][i] = matrix[i][j];
    }
  }
  return matrix;
}

std::string table(const RunReport& report) {
  const std::size_t n = report.texts.size();
  std::string out;
  if (n == 1) {
    const RunReport::Text& t = report.texts.front();
    out = fmt::format("{} tokens, embedding of {} numbers:", t.tokens.size(), t.embedding.size());
    for (std::size_t i = 0; i < std::min<std::size_t>(6, t.embedding.size()); ++i) {
      out += fmt::format(" {:.4f}", t.embedding[i]);
    }
    return out + " … (all with --json; give several texts to compare them)\n";
  }
  if (report.similarity.empty()) return fmt::format("{} texts (embeddings with --json)\n", n);
  std::size_t best_i = 0, best_j = 1;
  for (std::size_t i = 0; i < n; ++i) {
    for (std::size_t j = i + 1; j < n; ++j) {
      if (report.similarity[i][j] > report.similarity[best_i][best_j]) best_i = i, best_j = j;
    }
  }
  if (n <= kTableTexts) {
    out += "   ";
    for (std::size_t j = 0; j < n; ++j) out += fmt::format(" {:>6}", j + 1);
    out += "\n";
    for (std::size_t i = 0; i < n; ++i) {
      out += fmt::format("{:>3}", i + 1);
      for (std::size_t j = 0; j < n; ++j) {
        const std::string cell = fmt::format(" {:>6.3f}", report.similarity[i][j]);
        const bool best = (i == best_i && j == best_j) || (i == best_j && j == best_i);
        out += best ? bold(cell) : cell;
      }
      out += "  " + shortened(report.texts[i].text, 48) + "\n";
    }
  } else {
    out += fmt::format("{} texts (all similarities with --json)\n", n);
  }
  return out + fmt::format("Closest: {} and {}, cosine {:.3f}\n  {}\n  {}\n", best_i + 1,
                           best_j + 1, report.similarity[best_i][best_j],
                           shortened(report.texts[best_i].text, 76),
                           shortened(report.texts[best_j].text, 76));
}

}  // namespace

void run(const RunOptions& options) {
  std::vector<std::string> texts = options.texts;
  if (texts.empty()) texts = split_lines(read_text(options.file.empty() ? "-" : options.file));
  if (texts.empty()) {
    throw std::invalid_argument("run: " +
                                (options.file.empty() || options.file == "-"
                                     ? std::string("standard input")
                                     : "'" + options.file + "'") +
                                " has no text; give TEXT, -f FILE or standard input");
  }

  const Model model = load_model("run", options.model, options.offline, options.common.context());
  RunReport report{.model = options.model, .texts = {}, .similarity = {}};
  std::vector<Encoding> encodings;
  for (const std::string& text : texts) {
    encodings.push_back(model.encode(text));
    const Encoding& encoding = encodings.back();
    warn_if_truncated(encoding, text, model);
    report.texts.push_back({.text = text,
                            .tokens = token_texts(encoding.tokens),
                            .truncated = encoding.truncated,
                            .embedding = {},
                            .hidden = {}});
  }
  Progress progress;
  for (std::size_t begin = 0; begin < texts.size(); begin += kBatch) {
    if (texts.size() > kBatch)
      progress.show(fmt::format("Embedding {} of {}", begin, texts.size()));
    const std::size_t count = std::min(kBatch, texts.size() - begin);
    auto embeddings = model.embed(std::span(encodings).subspan(begin, count));
    for (std::size_t i = 0; i < count; ++i) {
      report.texts[begin + i].embedding = std::move(embeddings[i]);
      if (options.hidden) report.texts[begin + i].hidden = model.hidden(encodings[begin + i]);
    }
  }
  if (texts.size() <= kComparable) {
    report.similarity = similarities(report.texts);
  } else {
    warn(fmt::format("{} texts are embedded but not compared: that is done for up to {}",
                     texts.size(), kComparable));
  }
  print(options.common.json ? json(report) : table(report));
}

}  // namespace attn::cli
