// A folder with a LLaMA of two layers, weights by formula and GPT-2's small test tokenizer.
#pragma once

#include <string>

#include "folder.h"
#include "made_weights.h"

namespace attn {

inline constexpr const char* kSmallConfig =
    R"({"model_type":"llama","hidden_size":48,"intermediate_size":64,"num_hidden_layers":2,)"
    R"("num_attention_heads":3,"num_key_value_heads":1,"vocab_size":1000,"hidden_act":"silu",)"
    R"("max_position_embeddings":64,"rms_norm_eps":1e-6,"rope_theta":10000.0,)"
    R"("tie_word_embeddings":true,"eos_token_id":0})";

inline std::string small_weights() {
  TensorShapes shapes = {{"model.embed_tokens.weight", {1000, 48}}, {"model.norm.weight", {48}}};
  for (const std::string layer : {"model.layers.0.", "model.layers.1."}) {
    shapes[layer + "input_layernorm.weight"] = {48};
    shapes[layer + "post_attention_layernorm.weight"] = {48};
    shapes[layer + "self_attn.q_proj.weight"] = {48, 48};
    shapes[layer + "self_attn.k_proj.weight"] = {16, 48};
    shapes[layer + "self_attn.v_proj.weight"] = {16, 48};
    shapes[layer + "self_attn.o_proj.weight"] = {48, 48};
    shapes[layer + "mlp.gate_proj.weight"] = {64, 48};
    shapes[layer + "mlp.up_proj.weight"] = {64, 48};
    shapes[layer + "mlp.down_proj.weight"] = {48, 64};
  }
  return made_weights(shapes);
}

inline void write_small_model(const TestFolder& folder) {
  folder.write("config.json", kSmallConfig);
  folder.write("model.safetensors", small_weights());
  folder.write("tokenizer.json", slurp(std::string(ATTN_TEST_DATA) + "/tokenizers/gpt2.json"));
}

}  // namespace attn
