// Commands on models with a state: heads are shown by the attention that the state implies.
#include "model/state_model.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>
#include <string>

#include "run_command.h"

namespace attn::test {
namespace {

using testing::HasSubstr;

struct Kept {
  const char *file, *name;
};

class StateModel : public testing::TestWithParam<Kept> {
 protected:
  StateModel() {
    const Json cases = *read_golden(GetParam().file).find("cases");
    write_state_model(folder_, *cases.find(GetParam().name));
  }
  nlohmann::json run(std::vector<std::string> arguments) const {
    arguments.insert(arguments.begin() + 1, folder_.path());
    arguments.insert(arguments.end(), {"--json", "--threads", "1"});
    const Ran ran = attn(arguments);
    EXPECT_EQ(ran.code, 0) << ran.err;
    return nlohmann::json::parse(ran.out);
  }

  TestFolder folder_;
};
INSTANTIATE_TEST_SUITE_P(Of, StateModel,
                         testing::Values(Kept{"recurrent.json", "mamba"},
                                         Kept{"recurrent.json", "mamba2"},
                                         Kept{"recurrent.json", "rwkv"},
                                         Kept{"rwkv5.json", "rwkv5"}),
                         [](const auto& test) { return std::string(test.param.name); });

TEST_P(StateModel, IsLookedInto) {
  const std::string page = temporary("page.html");
  const auto report = run({"look", "the cat sat on the mat", "-o", page});
  ASSERT_GT(report.at("heads").size(), 1U);
  for (const auto& head : report.at("heads")) {
    EXPECT_GE(head.at("relative_entropy"), 0.0);
    EXPECT_LE(head.at("relative_entropy"), 1.0 + 1e-9);
  }
  EXPECT_THAT(read(page), HasSubstr("\"implied\":true"));
}

TEST_P(StateModel, HasItsHeadsMeasured) {
  const std::string text = "the cat sat on the mat", file = temporary("corpus.txt");
  std::ofstream(file) << text;
  const auto table = run({"heads", file}).at("heads"),
             page = run({"look", text, "-o", temporary("page.html")}).at("heads");
  ASSERT_EQ(table.size(), page.size());
  for (std::size_t i = 0; i < table.size(); ++i) {
    EXPECT_NEAR(table[i].at("entropy").get<double>(), page[i].at("entropy").get<double>(), 1e-5);
    EXPECT_TRUE(table[i].at("induction").is_number()) << i;
  }
}

TEST_P(StateModel, GeneratesAndScores) {
  const auto got = run({"generate", "the cat", "-n", "5"});
  EXPECT_EQ(got.at("ids").size(), 5U);
  EXPECT_EQ(got.at("prompt_tokens"), 7);
  const std::string file = temporary("text.txt");
  std::ofstream(file) << "the cat sat";
  EXPECT_EQ(run({"score", file}).at("losses").size(), 10U);
}

}  // namespace
}  // namespace attn::test
