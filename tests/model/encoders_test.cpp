// Every family of encoders against Transformers (tests/data/encoders.json), on weights made by the
// formula of tools/golden_families.py.
#include <gtest/gtest.h>

#include <span>
#include <vector>

#include "golden_models.h"

namespace attn {
namespace {

const Json& golden() {
  static const Json json = read_golden("encoders.json");
  return json;
}

class Encoder : public testing::TestWithParam<std::size_t> {
 protected:
  Encoder() : given_(golden().find("cases")->items[GetParam()]), made_(given_) {}
  const std::vector<Json>& runs() const { return given_.find("runs")->items; }

  const Json& given_;
  const GoldenTransformer made_;
  const Transformer& model_ = made_.model;
};

// One text after another in one pack, so that each is where the others would disturb it.
TEST_P(Encoder, AgreesWithTransformers) {
  SCOPED_TRACE(golden().find("cases")->names[GetParam()]);
  PackedTexts texts;
  for (const Json& run : runs()) texts.add(ids_of(*run.find("ids")), ids_of(*run.find("types")));
  const auto hidden = model_.hidden(texts, Context({.threads = 2}));
  const auto width = static_cast<std::size_t>(model_.config().width);
  ASSERT_EQ(hidden.size(), texts.ids.size() * width);
  std::size_t first = 0;
  for (std::size_t t = 0; t < runs().size(); ++t) {
    const auto tokens = static_cast<std::size_t>(texts.lengths[t]);
    expect_rows(runs()[t], "hidden", std::span(hidden).subspan(first * width, tokens * width),
                tokens);
    first += tokens;
  }
}

TEST_P(Encoder, RefusesWhatIsOutsideItsTables) {
  const Context context({.threads = 1});
  const auto run = [&](std::vector<std::int32_t> ids, std::vector<std::int32_t> types) {
    PackedTexts texts;
    texts.add(ids, types);
    return model_.hidden(texts, context);
  };
  EXPECT_TRUE(model_.hidden(PackedTexts(), context).empty());
  EXPECT_THROW(run({101}, {0}), std::invalid_argument);
  EXPECT_THROW(run({-1}, {0}), std::invalid_argument);
  EXPECT_THROW(run({1, 2}, {0}), std::invalid_argument);
  if (model_.config().types > 0) {
    EXPECT_THROW(run({1}, {static_cast<std::int32_t>(model_.config().types)}),
                 std::invalid_argument);
    EXPECT_THROW(run({1}, {-1}), std::invalid_argument);
    EXPECT_EQ(run({1, 2}, {}), run({1, 2}, {0, 0}));
  }
  const auto most = static_cast<std::size_t>(model_.config().positions);
  EXPECT_EQ(run(std::vector<std::int32_t>(most, 1), {}).size(),
            most * static_cast<std::size_t>(model_.config().width));
  EXPECT_THROW(run(std::vector<std::int32_t>(most + 1, 1), {}), std::invalid_argument);
}

INSTANTIATE_TEST_SUITE_P(Transformers, Encoder,
                         testing::Range(std::size_t{0}, golden().find("cases")->names.size()));

}  // namespace
}  // namespace attn
