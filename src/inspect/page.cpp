#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <functional>
#include <random>
#include <utility>

#include "attn/error.h"
#include "attn/inspect.h"
#include "inspect/pack.h"
#include "inspect/page_data.h"
#include "inspect/rows.h"

namespace attn {

namespace web {
// Made at build time from the folder web/.
extern const char* const kIndex;
extern const char* const kStyle;
extern const char* const kMaths;
extern const char* const kScript;
}  // namespace web

namespace {

std::string escape_html(const std::string& text) {
  std::string out;
  for (char c : text) {
    switch (c) {
      case '&': out += "&amp;"; break;
      case '<': out += "&lt;"; break;
      case '>': out += "&gt;"; break;
      case '"': out += "&quot;"; break;
      default: out += static_cast<unsigned char>(c) < 0x20 ? ' ' : c;
    }
  }
  return out;
}

// Fills the template's @NAME@ places in one pass, so that what is filled in is never searched.
std::string fill(const std::string& text,
                 const std::vector<std::pair<std::string, std::string>>& values) {
  std::string out;
  std::size_t at = 0;
  for (std::size_t mark; (mark = text.find('@', at)) != std::string::npos;) {
    out.append(text, at, mark - at);
    at = mark;
    bool found = false;
    for (const auto& [name, value] : values) {
      const std::string place = "@" + name + "@";
      if (text.compare(mark, place.size(), place) != 0) continue;
      out += value;
      at = mark + place.size();
      found = true;
      break;
    }
    if (!found) out += text[at++];
  }
  return out.append(text, at);
}

std::string reason() { return std::strerror(errno); }

[[noreturn]] void fail(const std::filesystem::path& path, const std::string& why) {
  throw Error("[write_page] cannot write " + path.string() + ": " + why);
}

// Everything or an error; closes the descriptor.
bool write_all(int file, const std::string& text) {
  std::size_t done = 0;
  bool good = true;
  while (good && done < text.size()) {
    const ssize_t wrote = ::write(file, text.data() + done, text.size() - done);
    if (wrote > 0)
      done += static_cast<std::size_t>(wrote);
    else
      good = wrote < 0 && errno == EINTR;
  }
  const int error = errno;
  const bool closed = ::close(file) == 0;
  if (!good) errno = error;
  return good && closed;
}

std::string page_of(const std::vector<inspect::PageTab>& tabs, const std::string& title,
                    const Context& context, double limit) {
  for (const inspect::PageTab& tab : tabs) inspect::check_record(*tab.record, "page");
  const std::string shown = inspect::valid_utf8(title.empty() ? tabs.front().record->model : title);
  const inspect::PageData data = inspect::page_data(tabs, shown, context, limit);
  std::string scripts =
      "<script type=\"application/json\" id=\"attn-data\">" + data.json + "</script>\n";
  for (const auto& [name, text] : data.texts) {
    scripts += "<script type=\"text/plain\" id=\"attn-" + name + "\">";
    scripts += text + "</script>\n";
  }
  return fill(web::kIndex, {{"VERSION", version()},
                            {"TITLE", escape_html(shown)},
                            {"STYLE", web::kStyle},
                            {"DATA", scripts},
                            {"MATHS", web::kMaths},
                            {"SCRIPT", web::kScript}});
}

std::vector<inspect::PageTab> tabs_of(const TranslationRecord& record) {
  return {{"Encoder", &record.encoder}, {"Decoder", &record.decoder}, {"Cross", &record.cross}};
}

// Everything or nothing; the text is made once the path is known to be no folder.
std::string write_whole(const std::string& path, const std::function<std::string()>& make) {
  namespace fs = std::filesystem;
  if (path.empty()) throw Error("[write_page] the path is empty");
  const fs::path named = fs::absolute(path).lexically_normal();
  fs::path target = named;
  std::error_code ignored;
  // Renaming replaces a link, not what it leads to.
  for (int links = 0; fs::is_symlink(fs::symlink_status(target, ignored)); ++links) {
    if (links == 40) fail(named, std::strerror(ELOOP));
    target = target.parent_path() / fs::read_symlink(target, ignored);
  }
  const fs::file_status status = fs::status(target, ignored);
  if (fs::is_directory(status)) fail(target, "it is a folder");
  const std::string text = make();

  // A pipe or a device cannot be replaced by renaming; it is written to.
  if (fs::exists(status) && !fs::is_regular_file(status)) {
    const int file = ::open(target.c_str(), O_WRONLY | O_CLOEXEC);
    if (file < 0 || !write_all(file, text)) fail(target, reason());
    return named.string();
  }
  std::random_device random;
  fs::path partial;
  int file = -1;
  for (int attempt = 0; attempt < 16 && file < 0; ++attempt) {
    partial = target;
    partial += ".part-" + std::to_string(random());
    file = ::open(partial.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (file < 0 && errno != EEXIST) break;
  }
  if (file < 0) fail(target, reason());
  if (!write_all(file, text) || ::rename(partial.c_str(), target.c_str()) != 0) {
    const std::string why = reason();
    ::unlink(partial.c_str());
    fail(target, why);
  }
  return named.string();
}

}  // namespace

std::string page(const AttentionRecord& record, const std::string& title, const Context& context,
                 double limit) {
  return page_of({{"", &record}}, title, context, limit);
}
std::string page(const TranslationRecord& record, const std::string& title, const Context& context,
                 double limit) {
  return page_of(tabs_of(record), title, context, limit);
}

std::string write_page(const AttentionRecord& record, const std::string& path,
                       const std::string& title, const Context& context, double limit) {
  return write_whole(path, [&] { return page(record, title, context, limit); });
}
std::string write_page(const TranslationRecord& record, const std::string& path,
                       const std::string& title, const Context& context, double limit) {
  return write_whole(path, [&] { return page(record, title, context, limit); });
}

}  // namespace attn
