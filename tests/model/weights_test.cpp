// Weights by name, from every kind of file that holds them.
#include "model/weights.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <cstring>
#include <filesystem>
#include <string>
#include <vector>

#include "attn/error.h"
#include "attn/model.h"
#include "folder.h"
#include "gguf_file.h"
#include "golden.h"
#include "model/demo.h"
#include "model/safetensors.h"
#include "weights_file.h"

namespace attn {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

const std::vector<float> kNumbers = {1.5F, -2.5F};

TestTensor tensor(const std::string& name, const std::string& dtype = "F32") {
  return {name, dtype, {2}, stored_as(dtype, kNumbers)};
}

std::string failure(const std::string& path) {
  return message_of<Error>([&] { Weights weights(path); });
}

TEST(Weights, LooksUpFloatsByNameTypeAndShape) {
  const TestFolder folder;
  // A header of odd length puts the numbers where no float may lie.
  for (const std::string padding : {"", " ", "  ", "   "}) {
    const std::string path =
        folder.write("x.safetensors", safetensors_of({tensor("a"),
                                                      tensor("b", "F16"),
                                                      tensor("c", "BF16"),
                                                      {"d", "I64", {1}, std::string(8, '\0')}},
                                                     padding));
    Weights weights(path);
    for (const char* const name : {"a", "b", "c"}) {
      const float* const numbers = weights.floats(name, {2});
      EXPECT_EQ(numbers[0], 1.5F) << name;
      EXPECT_EQ(numbers[1], -2.5F) << name;
      EXPECT_EQ(weights.floats(name, {2}), numbers) << "converted twice";
    }
    EXPECT_EQ(weights.entries().size(), 4U);
    EXPECT_EQ(weights.parameters(), 6);
    EXPECT_EQ(weights.gguf(), nullptr);
    EXPECT_TRUE(weights.has("d"));
    EXPECT_FALSE(weights.has("z"));
    EXPECT_EQ(message_of<Error>([&] { weights.floats("z", {2}); }),
              path + ": tensor z: is missing");
    EXPECT_THAT(message_of<Error>([&] { weights.floats("d", {1}); }),
                HasSubstr("x.safetensors: tensor d: has type I64, must be one of F32, F16"));
    EXPECT_THAT(message_of<Error>([&] {
                  weights.floats("a", {1, 2});
                }),
                HasSubstr("tensor a: has shape [2], the configuration says [1, 2]"));
  }
  EXPECT_THAT(failure(folder.file("none")), HasSubstr("none: cannot be opened: No such file"));
  EXPECT_THAT(failure(folder.path() + "/x.safetensors/y"), HasSubstr("cannot be opened"));
}

TEST(Weights, ReadsGgufWithItsMetadata) {
  Weights weights(std::string(ATTN_TEST_DATA) + "/golden.gguf");
  const test::Golden golden("golden_gguf.txt");
  std::size_t elements = 0;
  for (const TensorEntry& entry : weights.entries()) {
    const std::vector<double>& expected = golden[entry.name];
    const float* const numbers = weights.floats(entry.name, entry.shape);
    elements += expected.size();
    for (std::size_t i = 0; i < expected.size(); ++i) {
      ASSERT_EQ(numbers[i], static_cast<float>(expected[i])) << entry.name << " " << i;
    }
  }
  EXPECT_EQ(weights.parameters(), static_cast<std::int64_t>(elements));
  // One row alone, without a copy of the others.
  const StoredTensor stored = weights.stored("Q5_1", {3, 64});
  std::vector<float> row(64);
  rows_to_floats(stored.type, stored.bytes, 64, 2, 3, row);
  EXPECT_EQ(row[5], weights.floats("Q5_1", {3, 64})[2 * 64 + 5]);
  ASSERT_NE(weights.gguf(), nullptr);
  EXPECT_EQ(weights.gguf()->text("general.architecture"), "golden");
}

TEST(Weights, FindsTheFileOfAFolder) {
  const TestFolder folder;
  EXPECT_THAT(failure(folder.path()), HasSubstr("/model.safetensors: cannot be opened: No such"));
  const std::string gguf = GgufFile{.tensors = {gguf_tensor("g", {8}, 0, 0)}, .data = 32}.bytes();
  folder.write("one.gguf", gguf);
  EXPECT_TRUE(Weights(folder.path()).has("g"));
  folder.write("part.gguf",
               GgufFile{.pairs = {gguf_pair("split.count", 2, raw<short>(3))}}.bytes());
  EXPECT_THAT(failure(folder.file("part.gguf")), HasSubstr("is one of 3 parts of a model; join"));
  std::filesystem::rename(folder.file("part.gguf"), folder.file("two.gguf"));
  EXPECT_THAT(failure(folder.path()), HasSubstr("has 2 .gguf files; name the one that is meant"));
  EXPECT_TRUE(Weights(folder.file("one.gguf")).has("g"));
  // By its contents, whatever it is called.
  EXPECT_TRUE(Weights(folder.write("blob", gguf)).has("g"));
  EXPECT_THAT(failure(folder.write("bad.gguf", "not")), HasSubstr("bad.gguf: truncated"));
  folder.write("model.safetensors.index.json", index_of({{"s", "s.safetensors"}}));
  folder.write("s.safetensors", safetensors_of({tensor("s")}));
  EXPECT_TRUE(Weights(folder.path()).has("s"));
  folder.write("model.safetensors", safetensors_of({tensor("a")}));
  EXPECT_TRUE(Weights(folder.path()).has("a"));
}

TEST(Weights, ReadsShards) {
  const TestFolder folder;
  folder.write("1.safetensors", safetensors_of({tensor("a"), tensor("d", "F16"), tensor("other")}));
  folder.write("2.safetensors", safetensors_of({tensor("b", "BF16"), tensor("c")}));
  const std::string index =
      folder.write("model.safetensors.index.json", index_of({{"a", "1.safetensors"},
                                                             {"b", "2.safetensors"},
                                                             {"c", "2.safetensors"},
                                                             {"d", "1.safetensors"}}));
  Weights weights(folder.path());
  std::vector<std::string> names;
  for (const TensorEntry& entry : weights.entries()) {
    names.push_back(entry.name);
    EXPECT_EQ(weights.floats(entry.name, {2})[1], -2.5F) << entry.name;
  }
  EXPECT_THAT(names, ElementsAre("a", "b", "c", "d"));
  EXPECT_EQ(weights.parameters(), 8);
  EXPECT_THAT(message_of<Error>([&] { weights.floats("b", {3}); }),
              HasSubstr("/2.safetensors: tensor b: has shape [2]"));
  EXPECT_EQ(message_of<Error>([&] { weights.floats("z", {2}); }), index + ": tensor z: is missing");

  folder.write("model.safetensors.index.json",
               index_of({{"a", "1.safetensors"}, {"bb", "2.safetensors"}}));
  EXPECT_EQ(failure(folder.path()), index + ": tensor bb: is not in 2.safetensors");
  folder.write("model.safetensors.index.json", index_of({{"a", "3.safetensors"}}));
  EXPECT_THAT(failure(folder.path()), HasSubstr("/3.safetensors: cannot be opened: No such file"));
  const std::string whole = safetensors_of({tensor("b")});
  folder.write("2.safetensors", whole.substr(0, whole.size() - 1));
  folder.write("model.safetensors.index.json", index_of({{"b", "2.safetensors"}}));
  EXPECT_THAT(failure(folder.path()),
              HasSubstr("/2.safetensors: tensor b: bytes 0 to 8 are out of range"));
}

TEST(Weights, RefusesHostileIndices) {
  std::map<std::string, std::string> many;
  for (int i = 0; i < 4097; ++i) {
    many["t" + std::to_string(i)] = std::to_string(i) + ".safetensors";
  }
  const std::pair<std::string, const char*> hostile[] = {
      {"", "invalid JSON"},
      {"[]", "holds an array, must be an object"},
      {"{}", "has no \"weight_map\""},
      {R"({"weight_map":[]})", "\"weight_map\" is an array, must be an object"},
      {R"({"weight_map":{"a":1}})", "tensor a: is a number, must be the name of a file"},
      {R"({"weight_map":{"a":"x.safetensors","a":"y.safetensors"}})", "appears twice"},
      {"{\"weight_map\":{\"\xff\":\"x.safetensors\"}}", "invalid JSON at byte"},
      {index_of({{"a", ""}}),
       "tensor a: must be in a .safetensors file of the same folder, is in \"\""},
      {index_of({{"a", "/etc/x.safetensors"}}), "must be in a .safetensors file"},
      {index_of({{"a", "../x.safetensors"}}), "must be in a .safetensors file"},
      {index_of({{"a", "..safetensors"}}), "must be in a .safetensors file"},
      {index_of({{"a", "b/x.safetensors"}}), "must be in a .safetensors file"},
      {index_of({{"a", R"(b\\x.safetensors)"}}), "must be in a .safetensors file"},
      {index_of({{"a", R"(x\u0000.safetensors)"}}), "must be in a .safetensors file"},
      {index_of({{"a", "pytorch_model.bin"}}), "must be in a .safetensors file"},
      {index_of({{"a", std::string(255, 'x') + ".safetensors"}}), "must be in a .safetensors"},
      {index_of(many), "names 4097 files, at most 4096 are allowed"},
  };
  for (const auto& [json, part] : hostile) {
    const std::string& text = json;
    const std::string message =
        message_of<Error>([&] { parse_safetensors_index(text, "index.json"); });
    EXPECT_THAT(message, HasSubstr(part));
    EXPECT_THAT(message, testing::StartsWith("index.json: "));
  }
}

TEST(Weights, RefusesPicklesAndSaysHowToConvert) {
  const TestFolder folder;
  const std::string zip("PK\x03\x04rest", 8), bare("\x80\x02\x8a\x0arest", 8);
  const auto refusal =
      testing::AllOf(HasSubstr("is a pickle file of PyTorch"), HasSubstr("can run any code"),
                     HasSubstr("weights_only"), HasSubstr("safetensors.torch.save_file("));
  EXPECT_THAT(failure(folder.write("a.pth", zip)), refusal);
  EXPECT_THAT(failure(folder.write("b.bin", bare)), refusal);
  EXPECT_THAT(failure(folder.write("c.safetensors", zip)), testing::Not(HasSubstr("pickle")));
  EXPECT_THAT(failure(folder.write("model/pytorch_model.bin", zip)), refusal);
  EXPECT_THAT(failure(folder.file("model")), testing::StartsWith(folder.file("model/pytorch_mod")));
  // Other files of these names are no reason to complain about them.
  folder.write("plain/training.bin", "text");
  folder.write("plain/folder.pt/file", "text");
  EXPECT_THAT(failure(folder.file("plain")), HasSubstr("model.safetensors: cannot be opened"));
}

TEST(Weights, ModelsInGgufSayTheirArchitecture) {
  const TestFolder folder;
  folder.write("x.gguf", slurp(std::string(ATTN_TEST_DATA) + "/golden.gguf"));
  EXPECT_EQ(
      message_of<Error>([&] { Model::load(folder.path()); }),
      folder.file("x.gguf") +
          ": is a model of architecture \"golden\"; attn generate continues texts with it, this "
          "needs an encoder");
}

// The built-in example, its weights rounded to `precision` and written as `dtype` in `shards`
// files.
class Rewritten {
 public:
  Rewritten(const std::string& dtype, std::size_t shards, const std::string& precision) {
    write_demo_model(folder_.path());
    Weights weights(folder_.path());
    std::vector<std::vector<TestTensor>> files(shards);
    std::map<std::string, std::string> index;
    for (std::size_t i = 0; i < weights.entries().size(); ++i) {
      const TensorEntry& entry = weights.entries()[i];
      const float* const numbers = weights.floats(entry.name, entry.shape);
      std::vector<float> values(numbers, numbers + (entry.end - entry.begin) / sizeof(float));
      for (float& x : values) {
        if (precision == "F16") x = float16_value(float16_bits(x));
        if (precision == "BF16") x = bfloat16_value(bfloat16_bits(x));
      }
      files[i % shards].push_back({entry.name, dtype, entry.shape, stored_as(dtype, values)});
      index[entry.name] = std::to_string(i % shards) + ".safetensors";
    }
    if (shards == 1) {
      folder_.write("model.safetensors", safetensors_of(files[0]));
      return;
    }
    std::filesystem::remove(folder_.file("model.safetensors"));
    folder_.write("model.safetensors.index.json", index_of(index));
    for (std::size_t i = 0; i < shards; ++i) {
      folder_.write(std::to_string(i) + ".safetensors", safetensors_of(files[i]));
    }
  }
  Model load() const { return Model::load(folder_.path()); }

 private:
  TestFolder folder_;
};

std::vector<float> hidden(const Model& model) {
  return model.hidden(model.encode("the cat sat on the mat"));
}

TEST(Weights, ModelsLoadFromShardsAndSixteenBits) {
  const Model demo = Rewritten("F32", 1, "F32").load();
  const std::vector<float> exact = hidden(demo);
  EXPECT_EQ(hidden(Rewritten("F32", 3, "F32").load()), exact);
  for (const std::string precision : {"F16", "BF16"}) {
    // float32 holds exactly what the smaller type holds.
    const std::vector<float> rounded = hidden(Rewritten("F32", 1, precision).load());
    EXPECT_NE(rounded, exact);
    EXPECT_EQ(hidden(Rewritten(precision, 1, precision).load()), rounded);
    const Model shards = Rewritten(precision, 4, precision).load();
    EXPECT_EQ(hidden(shards), rounded);
    EXPECT_EQ(shards.info().parameters, demo.info().parameters);
  }
}

}  // namespace
}  // namespace attn
