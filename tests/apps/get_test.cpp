// What attn get says and does, offline.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <nlohmann/json.hpp>

#include "model_folders.h"
#include "run_command.h"

namespace attn::test {
namespace {

using testing::HasSubstr;

TEST(Get, ListsWhatItKnows) {
  const Ran ran = attn({"get"});
  EXPECT_EQ(ran.code, 0);
  for (const char* word : {"name", "minilm", "smollm2", "demo", "Apache-2.0", "MB"}) {
    EXPECT_THAT(ran.out, HasSubstr(word));
  }
  bool found = false;
  for (const auto& model : nlohmann::json::parse(attn({"get", "--json"}).out)) {
    if (model.at("name") == "minilm") {
      found = true;
      EXPECT_EQ(model.at("licence"), "Apache-2.0");
    }
  }
  EXPECT_TRUE(found);
}

TEST(Get, PathIsAFolderAlone) {
  EXPECT_TRUE(std::filesystem::is_regular_file(demo_folder() + "/config.json"));
}

TEST(Get, UnknownNamesFail) {
  const Ran ran = attn({"get", "frobnicate", "--offline"});
  EXPECT_EQ(ran.code, 2);
  EXPECT_TRUE(is_one_line(ran.err)) << ran.err;
  EXPECT_THAT(ran.err, HasSubstr("frobnicate"));
  EXPECT_THAT(ran.err, HasSubstr("minilm, smollm2, demo"));
}

}  // namespace
}  // namespace attn::test
