// Folders of models that the tests of commands run.
#pragma once

#include <gtest/gtest.h>

#include <filesystem>
#include <string>

#include "attn/error.h"
#include "attn/model.h"
#include "run_command.h"

namespace attn::test {

// The built-in model, in the tests' cache.
inline std::string demo_folder() {
  const Ran ran = attn({"get", "demo", "--path", "--offline"});
  EXPECT_EQ(ran.code, 0) << ran.err;
  EXPECT_EQ(ran.out.find('\n'), ran.out.size() - 1) << ran.out;
  return ran.out.substr(0, ran.out.size() - 1);
}

// A small encoder-decoder, Arabic letters to Latin ones; "" without the assets.
inline std::string translator_folder() {
  const std::string folder = std::string(ATTN_ASSETS) + "/aren";
  return std::filesystem::exists(folder + "/model.bin") ? folder : "";
}

// SmolLM2 in the user's cache, as the commands of the tests have one of their own; "" without it.
inline std::string smollm2_folder() {
  try {
    return fetch_model("smollm2", {.offline = true});
  } catch (const Error&) {
    return "";
  }
}

}  // namespace attn::test
