#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <limits>
#include <regex>
#include <sstream>

#include "attn/error.h"
#include "attn/inspect.h"
#include "inspect/synthetic.h"

namespace attn {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

class Folder {
 public:
  Folder() : path_(fs::temp_directory_path() / ("attn-page-" + std::to_string(::getpid()))) {
    fs::create_directories(path_);
  }
  ~Folder() { fs::remove_all(path_); }
  const fs::path& path() const { return path_; }
  std::size_t files() const {
    return static_cast<std::size_t>(
        std::distance(fs::directory_iterator(path_), fs::directory_iterator()));
  }

 private:
  fs::path path_;
};

std::string read(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

std::size_t count(const std::string& text, const std::string& what) {
  std::size_t found = 0;
  for (std::size_t at = 0; (at = text.find(what, at)) != std::string::npos; at += what.size()) {
    ++found;
  }
  return found;
}

TEST(Page, IsOneFileThatAsksForNothing) {
  const std::string html = page(synthetic::record(12));
  EXPECT_EQ(html.rfind("<!DOCTYPE html>", 0), 0u);
  EXPECT_EQ(html.find("@DATA@"), std::string::npos);
  EXPECT_EQ(html.find("@SCRIPT@"), std::string::npos);
  // The only addresses are names of the SVG language; nothing loads by attribute, style or script.
  std::string rest = html;
  for (const char* known : {"http://www.w3.org/2000/svg"}) {
    for (std::size_t at; (at = rest.find(known)) != std::string::npos;) rest.erase(at, 26);
  }
  EXPECT_EQ(rest.find("http:"), std::string::npos);
  EXPECT_EQ(rest.find("https:"), std::string::npos);
  for (const char* loader : {"src=", "@import", "url(", "fetch(", "XMLHttpRequest", "import("}) {
    EXPECT_EQ(html.find(loader), std::string::npos) << loader;
  }
  EXPECT_FALSE(std::regex_search(html.substr(0, html.find("attn-data")),
                                 std::regex("<link[^>]*href=\"(?!data:)")));
}

TEST(Page, HostileTextStaysText) {
  AttentionRecord record = synthetic::record(8, 1, 1, 4);
  const std::string clean = page(record, "t");
  record.tokens[1].text = "</script><script>alert(1)</script>";
  record.tokens[2].text = "<!--<script>";
  record.tokens[3].text = std::string("\xff\x00 bad", 6);
  record.tokens[0].text = "\"]}</SCRIPT>";  // special: its name reaches the findings
  record.model = "@SCRIPT@ </title><img src=x onerror=alert(1)>";
  const std::string html = page(record);
  EXPECT_EQ(count(html, "</script>"), count(clean, "</script>"));
  EXPECT_EQ(count(html, "<script"), count(clean, "<script"));
  EXPECT_EQ(count(html, "</SCRIPT"), 0u);
  EXPECT_EQ(count(html, "<!--"), 0u);
  EXPECT_EQ(count(html, "<img"), 0u);
  EXPECT_THAT(html, HasSubstr("<title>@SCRIPT@ &lt;/title&gt;&lt;img"));
  EXPECT_THAT(html, HasSubstr("\\ufffd\\u0000 bad"));
}

// Five characters a query and key component of two bytes each, and the page around them.
TEST(Page, SizeFollowsTheFormula) {
  const auto size = [](std::size_t n) {
    return static_cast<double>(page(synthetic::record(n)).size());
  };
  const double small = size(32), large = size(96);
  const double heads = 6 * 12, per_token = heads * (2 * 32 + 1) * 2 * 1.25;
  EXPECT_NEAR((large - small) / 64, per_token, 0.02 * per_token);
  // What does not grow with the text; MiniLM at 512 tokens is then below 6.3 MB.
  EXPECT_LT(small - 32 * per_token, 200e3);
  EXPECT_LT(512 * per_token + 200e3, 6.3e6);
}

// A long text whose queries and keys do not all fit: layers in their order, then pictures, and
// never more than the limit.
TEST(Page, KeepsToItsLimit) {
  const std::size_t n = 700;
  const AttentionRecord record = synthetic::record(n, 4, 4, 64);
  const auto whole = [](const std::string& html) { return count(html, "\"q_exponent\""); };
  const std::string all = page(record);
  EXPECT_EQ(whole(all), 4U);
  EXPECT_EQ(count(all, "id=\"attn-sketch-"), 4U);
  const double fixed = 200e3;  // what every page has
  std::size_t before = 5;
  for (const double limit : {8e6, 4e6, 3e6, 2e6, 1e6}) {
    const std::string html = page(record, "", Context(), limit);
    EXPECT_LE(static_cast<double>(html.size()), std::max(limit, 1.5e6) + fixed) << limit;
    EXPECT_LE(whole(html), before);
    before = whole(html);
    EXPECT_EQ(count(html, "\"queries\":[]"), before) << limit;
    // Sixteen rows of each head, the last query's among them.
    EXPECT_EQ(count(html, "655,699]"), 4 - before) << limit;
  }
  EXPECT_EQ(before, 0U);
  // A short text brings no pictures.
  EXPECT_EQ(count(page(synthetic::record(12, 1, 1, 4)), "attn-sketch-0"), 0U);
}

TEST(Page, NamesLayersAsTheModelDoes) {
  AttentionRecord record = synthetic::record(12, 2, 2, 4);
  record.layer_numbers = {3, 7};
  EXPECT_THAT(page(record), HasSubstr("\"layer_numbers\":[3,7]"));
  for (const std::vector<std::int64_t>& wrong :
       {std::vector<std::int64_t>{3}, {7, 3}, {3, 3}, {-1, 3}}) {
    record.layer_numbers = wrong;
    EXPECT_THROW(page(record), std::invalid_argument);
  }
}

// Threads of this process, as the system counts them.
int threads() {
  return static_cast<int>(
      std::distance(fs::directory_iterator("/proc/self/task"), fs::directory_iterator()));
}

// In a process of its own, in which nothing has started a thread yet.
TEST(PageDeathTest, StartsNoThreadWhenOneIsAsked) {
  testing::FLAGS_gtest_death_test_style = "threadsafe";
  EXPECT_EXIT(
      {
        const AttentionRecord record = synthetic::record(8, 2, 4, 4);
        const Context one({.threads = 1});
        const int before = threads();
        page(record, "t", one);
        findings(record, head_statistics(record, one), 3, one);
        std::_Exit(threads() == before ? 0 : 1);
      },
      testing::ExitedWithCode(0), "");
}

TEST(Page, RefusesWhatItCannotCarry) {
  AttentionRecord record = synthetic::record(8, 1, 1, 4);
  record.layers[0].score.custom = [](const ScoreTile&) {};
  EXPECT_THROW(page(record), std::invalid_argument);
  EXPECT_THROW(page(AttentionRecord{}), std::invalid_argument);
}

TEST(Page, SurvivesNumbersThatAreNone) {
  AttentionRecord record = synthetic::record(8, 1, 2, 4);
  record.layers[0].q[3] = std::numeric_limits<float>::quiet_NaN();
  record.layers[0].k[5] = std::numeric_limits<float>::infinity();
  EXPECT_THAT(page(record), HasSubstr("null"));
}

TEST(WritePage, ReplacesAtomicallyAndReturnsTheAbsolutePath) {
  Folder folder;
  const AttentionRecord record = synthetic::record(8, 1, 1, 4);
  const fs::path target = folder.path() / "page.html";
  std::ofstream(target) << "old";
  EXPECT_EQ(write_page(record, (folder.path() / "." / "page.html").string()), target.string());
  EXPECT_EQ(read(target), page(record));
  EXPECT_EQ(folder.files(), 1u);
  const fs::path before = fs::current_path();
  fs::current_path(folder.path());
  EXPECT_EQ(write_page(record, "page.html"), (fs::current_path() / "page.html").string());
  fs::current_path(before);
}

TEST(WritePage, KeepsALinkAndWritesWhereItLeads) {
  Folder folder;
  const AttentionRecord record = synthetic::record(8, 1, 1, 4);
  fs::create_directory(folder.path() / "real");
  const fs::path target = folder.path() / "real" / "page.html", link = folder.path() / "link.html";
  const fs::path second = folder.path() / "second.html";
  fs::create_symlink("real/page.html", link);  // leads nowhere yet
  fs::create_symlink("link.html", second);
  for (int i = 0; i < 2; ++i) {
    EXPECT_EQ(write_page(record, second.string()), second.string());
    EXPECT_TRUE(fs::is_symlink(link));
    EXPECT_TRUE(fs::is_symlink(second));
    EXPECT_FALSE(fs::is_symlink(target));
    EXPECT_EQ(read(target), page(record));
  }
  const fs::path loop = folder.path() / "loop.html";
  fs::create_symlink("loop.html", loop);
  EXPECT_THROW(write_page(record, loop.string()), Error);
}

TEST(WritePage, SaysWhyItCannot) {
  Folder folder;
  const AttentionRecord record = synthetic::record(8, 1, 1, 4);
  const auto message = [&](const std::string& path) -> std::string {
    try {
      write_page(record, path);
    } catch (const Error& e) {
      return e.what();
    }
    return "nothing thrown";
  };
  EXPECT_THAT(message((folder.path() / "none" / "page.html").string()),
              HasSubstr("No such file or directory"));
  EXPECT_THAT(message(folder.path().string()), HasSubstr("it is a folder"));
  EXPECT_THAT(message(""), HasSubstr("empty"));
  EXPECT_THAT(message("/dev/full"), HasSubstr("No space left on device"));
  EXPECT_EQ(folder.files(), 0u);
}

}  // namespace
}  // namespace attn
