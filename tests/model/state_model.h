// Folders of models with a state, as users have them: a case of tests/data/recurrent.json or
// rwkv5.json, whose weights follow a formula, and a tokenizer.
#pragma once

#include <string>

#include "folder.h"
#include "golden_models.h"

namespace attn {

// Tokens are letters, a space ("Ġ"), and "t27", "t28", ..., which no text has.
inline void write_state_model(const TestFolder& folder, const Json& given) {
  folder.write("config.json", config_of(given));
  folder.write("model.safetensors", made_weights(shapes_of(*given.find("tensors"))));
  std::string vocabulary;
  for (int i = 0; i < 101; ++i) {
    const std::string piece = i < 26    ? std::string(1, static_cast<char>('a' + i))
                              : i == 26 ? "Ġ"
                                        : "t" + std::to_string(i);
    vocabulary += (i == 0 ? "\"" : ",\"") + piece + "\":" + std::to_string(i);
  }
  folder.write("tokenizer.json",
               R"({"version":"1.0","added_tokens":[],"normalizer":null,"pre_tokenizer":)"
               R"({"type":"ByteLevel","add_prefix_space":false,"trim_offsets":true,)"
               R"("use_regex":true},)"
               R"("post_processor":null,"decoder":{"type":"ByteLevel","add_prefix_space":false,)"
               R"("trim_offsets":true,"use_regex":true},)"
               R"("model":{"type":"BPE","merges":[],"vocab":{)" +
                   vocabulary + "}}}");
}

}  // namespace attn
