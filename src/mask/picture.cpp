// Pictures of a mask: queries down, keys across, long axes pooled into cells.
#include <algorithm>
#include <array>
#include <cstddef>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "attn/mask.h"
#include "mask/bound.h"

namespace attn {
namespace {

void put(std::string& out, std::string_view part) { out += part; }
void put(std::string& out, std::int64_t part) { out += std::to_string(part); }

template <typename... Parts>
std::string cat(const Parts&... parts) {
  std::string out;
  (put(out, parts), ...);
  return out;
}

// One axis cut into cells of `pool` indices; the last may be shorter.
struct Axis {
  std::int64_t length = 0, pool = 1, cells = 0;
  Axis(std::int64_t axis_length, std::int64_t most_cells)
      : length(axis_length),
        pool(std::max<std::int64_t>(1, (axis_length - 1) / most_cells + 1)),
        cells(axis_length == 0 ? 0 : (axis_length - 1) / pool + 1) {}
  std::int64_t begin(std::int64_t cell) const { return cell * pool; }
  std::int64_t end(std::int64_t cell) const { return std::min(length, (cell + 1) * pool); }
};

enum Level : std::uint8_t { kNone, kSome, kHalf, kAll };  // of a cell's pairs

struct Picture {
  Axis queries, keys;
  std::vector<Level> levels;  // [queries.cells][keys.cells]
  std::int64_t visible = 0;
  std::string title, query_text, key_text;

  Level level(std::int64_t row, std::int64_t column) const {
    return levels[static_cast<std::size_t>(row * keys.cells + column)];
  }
  bool pooled() const { return queries.pool > 1 || keys.pool > 1; }
};

// "0..63", with the positions where they are others.
std::string range_text(std::int64_t length, std::int64_t first, std::int64_t last) {
  if (first == 0 && last == length - 1) return cat("0..", length - 1);
  return cat("0..", length - 1, " at positions ", first, "..", last);
}

// "12 of 64 pairs visible (18.8 %)"
std::string share_text(const Picture& picture) {
  const std::int64_t total = picture.queries.length * picture.keys.length;
  const std::string text = cat(picture.visible, " of ", total, " pairs visible");
  if (total == 0) return text;
  const auto tenths = static_cast<std::int64_t>(
      1000.0 * static_cast<double>(picture.visible) / static_cast<double>(total) + 0.5);
  return cat(text, " (", tenths / 10, ".", tenths % 10, " %)");
}

std::string cell_text(const Picture& picture, const char* times) {
  return cat("one cell: ", picture.queries.pool,
             picture.queries.pool == 1 ? " query " : " queries ", times, " ", picture.keys.pool,
             picture.keys.pool == 1 ? " key" : " keys");
}

Picture draw(const Mask& mask, const Geometry& geometry, std::int64_t cells, std::int64_t batch,
             std::int64_t head) {
  if (cells < 1) {
    throw std::invalid_argument("[mask] a picture of " + std::to_string(cells) + " cells");
  }
  const BoundMask bound(mask, geometry);
  if (batch < 0 || batch >= geometry.batch || head < 0 || head >= geometry.heads) {
    throw std::invalid_argument("[mask] picture of batch " + std::to_string(batch) + ", head " +
                                std::to_string(head) + " in a geometry of batch " +
                                std::to_string(geometry.batch) + ", heads " +
                                std::to_string(geometry.heads));
  }
  Picture picture{Axis(geometry.q_len, cells), Axis(geometry.k_len, cells), {}, 0, {}, {}, {}};
  const Axis &queries = picture.queries, &keys = picture.keys;
  const int variant = bound.variant(batch, head);
  Scratch<Interval> row;
  std::vector<std::int64_t> counts(static_cast<std::size_t>(keys.cells));
  for (std::int64_t r = 0; r < queries.cells; ++r) {
    std::fill(counts.begin(), counts.end(), 0);
    for (std::int64_t q = queries.begin(r); q < queries.end(r); ++q) {
      row->clear();
      bound.row(variant, q, *row);
      for (const Interval& interval : *row) {
        const std::int64_t last = (interval.end - 1) / keys.pool;
        for (std::int64_t c = interval.begin / keys.pool; c <= last; ++c) {
          const Interval piece = clip(interval, keys.begin(c), keys.end(c));
          if (!is_empty(piece)) counts[static_cast<std::size_t>(c)] += count(piece);
        }
      }
    }
    for (std::int64_t c = 0; c < keys.cells; ++c) {
      const std::int64_t visible = counts[static_cast<std::size_t>(c)];
      const std::int64_t all = (queries.end(r) - queries.begin(r)) * (keys.end(c) - keys.begin(c));
      picture.visible += visible;
      picture.levels.push_back(visible == 0               ? kNone
                               : visible == all           ? kAll
                               : visible >= all - visible ? kHalf
                                                          : kSome);
    }
  }
  constexpr std::size_t kLongest = 72;
  picture.title = mask.to_string();
  if (picture.title.size() > kLongest)
    picture.title.replace(kLongest - 3, std::string::npos, "...");
  if (geometry.q_len > 0) {
    picture.query_text =
        range_text(geometry.q_len, geometry.q_position(0), geometry.q_position(geometry.q_len - 1));
  }
  if (geometry.k_len > 0) {
    picture.key_text =
        range_text(geometry.k_len, geometry.k_position(0), geometry.k_position(geometry.k_len - 1));
  }
  if (geometry.q_len == 0) picture.query_text = "none";
  if (geometry.k_len == 0) picture.key_text = "none";
  return picture;
}

std::string padded(const std::string& text, std::size_t width) {
  return std::string(width - std::min(width, text.size()), ' ') + text;
}

std::string escaped(const std::string& text) {
  std::string safe;
  for (const char c : text) {
    switch (c) {
      case '&': safe += "&amp;"; break;
      case '<': safe += "&lt;"; break;
      case '>': safe += "&gt;"; break;
      case '"': safe += "&quot;"; break;
      default: safe += c;
    }
  }
  return safe;
}

// The cells of each level as one path in cell units, equal runs of neighbouring rows as one
// rectangle.
std::array<std::string, 4> level_paths(const Picture& picture) {
  struct Run {
    std::int64_t begin, end, top;
    Level level;
  };
  std::array<std::string, 4> paths;
  const auto close = [&](const Run& run, std::int64_t bottom) {
    const std::int64_t width = run.end - run.begin;
    paths[run.level] +=
        cat("M", run.begin, " ", run.top, "h", width, "v", bottom - run.top, "h-", width, "z");
  };
  std::vector<Run> open, runs;
  for (std::int64_t r = 0; r < picture.queries.cells; ++r) {
    runs.clear();
    for (std::int64_t c = 0; c < picture.keys.cells; ++c) {
      const Level level = picture.level(r, c);
      if (!runs.empty() && runs.back().end == c && runs.back().level == level) {
        runs.back().end = c + 1;
      } else if (level != kNone) {
        runs.push_back({c, c + 1, r, level});
      }
    }
    for (const Run& above : open) {
      const auto same = std::find_if(runs.begin(), runs.end(), [&](const Run& run) {
        return run.begin == above.begin && run.end == above.end && run.level == above.level;
      });
      if (same != runs.end()) {
        same->top = above.top;
      } else {
        close(above, r);
      }
    }
    open = runs;
  }
  for (const Run& run : open) close(run, picture.queries.cells);
  return paths;
}

// Every how many cells of an axis a label stands: at most eight, and far enough apart.
std::int64_t tick_every(const Axis& axis, std::int64_t label_cells) {
  std::int64_t every = 1;
  while (axis.cells / every > 8 || every < label_cells) every *= 2;
  return every;
}

constexpr const char* kStyle = R"(<style>
.attn-mask{font:12px system-ui,sans-serif;color-scheme:light dark}
.attn-mask .ground{fill:#fff}.attn-mask .none{fill:#eef1f4}.attn-mask .grid{stroke:#fff}
.attn-mask text{fill:#57606a}.attn-mask .title{fill:#1f2328;font-weight:600;font-size:13px}
.attn-mask .all,.attn-mask .half,.attn-mask .some{fill:#0969da}
.attn-mask .half{fill-opacity:.62}.attn-mask .some{fill-opacity:.3}
@media (prefers-color-scheme:dark){
.attn-mask .ground{fill:#0d1117}.attn-mask .none{fill:#1c232d}.attn-mask .grid{stroke:#0d1117}
.attn-mask text{fill:#9198a1}.attn-mask .title{fill:#f0f6fc}
.attn-mask .all,.attn-mask .half,.attn-mask .some{fill:#58a6ff}}
</style>
)";

std::string text_at(std::int64_t x, std::int64_t y, const char* anchor, const std::string& text) {
  return cat("<text x=\"", x, "\" y=\"", y, "\" text-anchor=\"", anchor, "\">", escaped(text),
             "</text>\n");
}

std::string rect(const char* name, std::int64_t x, std::int64_t y, std::int64_t width,
                 std::int64_t height) {
  return cat("<rect class=\"", name, "\" x=\"", x, "\" y=\"", y, "\" width=\"", width,
             "\" height=\"", height, "\"/>\n");
}

}  // namespace

std::string Mask::ascii(const Geometry& geometry, std::int64_t cells, std::int64_t batch,
                        std::int64_t head) const {
  const Picture picture = draw(*this, geometry, cells, batch, head);
  std::string text = picture.title + "\nqueries down " + picture.query_text + ", keys across " +
                     picture.key_text + "\n";
  const std::size_t margin =
      std::to_string(std::max<std::int64_t>(0, picture.queries.length - 1)).size() + 2;
  // Labels of keys, each over the cell where it starts.
  const std::int64_t every = picture.keys.pool == 1 ? 5 : 8;
  std::string labels(margin, ' ');
  for (std::int64_t c = 0; c < picture.keys.cells; c += every) {
    const std::size_t column = margin + static_cast<std::size_t>(2 * c);
    if (c > 0 && labels.size() + 1 > column) continue;
    labels += std::string(column - labels.size(), ' ') + std::to_string(picture.keys.begin(c));
  }
  if (picture.keys.cells > 0) text += labels + "\n";
  for (std::int64_t r = 0; r < picture.queries.cells; ++r) {
    text += padded(std::to_string(picture.queries.begin(r)), margin - 2) + " ";
    for (std::int64_t c = 0; c < picture.keys.cells; ++c) {
      text += ' ';
      text += ".-+#"[picture.level(r, c)];
    }
    text += '\n';
  }
  text += picture.pooled()
              ? "# all   + half or more   - fewer   . none   (" + cell_text(picture, "x") + ")\n"
              : "# visible   . hidden\n";
  return text + share_text(picture) + "\n";
}

std::string Mask::svg(const Geometry& geometry, std::int64_t cells, std::int64_t batch,
                      std::int64_t head) const {
  const Picture picture = draw(*this, geometry, cells, batch, head);
  const std::int64_t rows = picture.queries.cells, columns = picture.keys.cells;
  constexpr std::int64_t kSide = 384, kLeft = 76, kTop = 74, kRight = 24, kBottom = 82;
  const std::int64_t size =
      std::clamp<std::int64_t>(kSide / std::max<std::int64_t>({rows, columns, 1}), 2, 24);
  const std::int64_t width = columns * size, height = rows * size;
  const std::int64_t text_width = 8 * static_cast<std::int64_t>(picture.title.size());
  const std::int64_t full_width =
      kLeft + std::max<std::int64_t>({width, text_width - 48, 400}) + kRight;
  const std::int64_t full_height = kTop + height + kBottom;

  std::string svg =
      cat("<svg xmlns=\"http://www.w3.org/2000/svg\" class=\"attn-mask\" role=\"img\" ",
          "viewBox=\"0 0 ", full_width, " ", full_height, "\" width=\"", full_width, "\" height=\"",
          full_height, "\">\n<title>Mask ", escaped(picture.title), ": ", share_text(picture),
          "</title>\n", kStyle);
  svg += rect("ground", 0, 0, full_width, full_height);
  svg += cat("<text class=\"title\" x=\"24\" y=\"26\">", escaped(picture.title), "</text>\n");

  // Axes: the name, then the index at which every so many cells start.
  svg += text_at(kLeft, 48, "start", "keys \u2192  " + picture.key_text);
  svg += cat("<text transform=\"translate(32 ", kTop, ") rotate(90)\">queries \u2192</text>\n");
  const auto digits = static_cast<std::int64_t>(std::to_string(picture.keys.length).size());
  const std::int64_t column_step = tick_every(picture.keys, (8 * digits + 8) / size);
  const std::int64_t row_step = tick_every(picture.queries, 12 / size);
  for (std::int64_t c = 0; c < columns; c += column_step) {
    svg += text_at(kLeft + c * size, kTop - 6, "start", cat(picture.keys.begin(c)));
  }
  for (std::int64_t r = 0; r < rows; r += row_step) {
    svg += text_at(kLeft - 6, kTop + r * size + 10, "end", cat(picture.queries.begin(r)));
  }

  svg += rect("none", kLeft, kTop, width, height);
  svg += cat("<g transform=\"translate(", kLeft, " ", kTop, ") scale(", size,
             ")\" shape-rendering=\"crispEdges\">\n");
  constexpr const char* kNames[] = {"none", "some", "half", "all"};
  const std::array<std::string, 4> paths = level_paths(picture);
  for (std::size_t level = kSome; level <= kAll; ++level) {
    if (paths[level].empty()) continue;
    svg += cat("<path class=\"", kNames[level], "\" d=\"", paths[level], "\"/>\n");
  }
  svg += "</g>\n";
  if (size >= 8) {
    svg += "<path class=\"grid\" fill=\"none\" d=\"";
    for (std::int64_t r = 1; r < rows; ++r)
      svg += cat("M", kLeft, " ", kTop + r * size, "h", width);
    for (std::int64_t c = 1; c < columns; ++c)
      svg += cat("M", kLeft + c * size, " ", kTop, "v", height);
    svg += "\"/>\n";
  }

  const std::int64_t legend = kTop + height + 16;
  std::int64_t x = kLeft;
  const auto swatch = [&](Level level, const char* label, std::int64_t advance) {
    svg += rect("none", x, legend, 11, 11);
    if (level != kNone) svg += rect(kNames[level], x, legend, 11, 11);
    svg += text_at(x + 16, legend + 10, "start", label);
    x += advance;
  };
  if (picture.pooled()) {
    swatch(kAll, "all", 50);
    swatch(kHalf, "half or more", 106);
    swatch(kSome, "fewer", 66);
    swatch(kNone, "none", 0);
  } else {
    swatch(kAll, "visible", 76);
    swatch(kNone, "hidden", 0);
  }
  svg += text_at(kLeft, legend + 31, "start", share_text(picture));
  std::string note = "queries " + picture.query_text;
  if (picture.pooled()) note += "; " + cell_text(picture, "\u00d7");
  svg += text_at(kLeft, legend + 50, "start", note);
  return svg + "</svg>\n";
}

}  // namespace attn
