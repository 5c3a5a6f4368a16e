#include "bench_table.h"

#include <cstdint>

#include "attn/mechanism.h"

namespace attn::cli {

namespace {

constexpr const char* kWindow = "window:255,0";
constexpr const char* kLongformer = "window(256, 256) | global(0, 1)";
constexpr const char* kBigBird = "bigbird(64, 3, 0)";

AttentionShape shape(std::int64_t batch, std::int64_t q_heads, std::int64_t kv_heads,
                     std::int64_t q_len, std::int64_t k_len, std::int64_t width,
                     DType kv_dtype = DType::f32) {
  return {.batch = batch,
          .q_heads = q_heads,
          .kv_heads = kv_heads,
          .q_len = q_len,
          .k_len = k_len,
          .width = width,
          .kv_dtype = kv_dtype};
}

// BERT's heads at 2,048 tokens; a LLaMA's keys at 32,768.
AttentionShape bert(DType kv_dtype = DType::f32) {
  return shape(1, 12, 12, 2048, 2048, 64, kv_dtype);
}
AttentionShape llama(std::int64_t q_len, DType kv_dtype = DType::f32) {
  return shape(1, 32, 8, q_len, 32768, 128, kv_dtype);
}

// BERT's heads at 8,192 tokens, and their gradients at 4,096: causal exact attention, which is
// timed in turns, takes a second and more.
std::vector<Workload> recurrences() {
  constexpr int kFew = 3;
  std::vector<Workload> list;
  for (const bool backward : {false, true}) {
    const std::int64_t length = backward ? 4096 : 8192;
    for (const char* name :
         {"linear", "retnet", "mamba2", "gla", "rwkv6", "delta", "mamba", "rwkv4"}) {
      Workload w = workload_of(name, shape(1, 12, 12, length, length, 64));
      w.backward = backward;
      w.samples = kFew;
      list.push_back(w);
    }
  }
  return list;
}

// Of states beyond the cache of a core, and of one of 16 KB.
std::vector<Workload> steps() {
  std::vector<Workload> list;
  for (const AttentionShape& of : {shape(64, 12, 12, 1, 1, 64), shape(1, 1, 1, 1, 1, 64)}) {
    for (const char* name : {"linear", "performer", "retnet", "mamba2", "gla", "rwkv5", "rwkv6",
                             "delta", "gated-delta", "mamba", "rwkv4"}) {
      Workload w = workload_of(name, of);
      w.decode = true;
      list.push_back(w);
    }
  }
  return list;
}

}  // namespace

std::vector<Workload> default_workloads() {
  return {{.shape = shape(1, 12, 12, 512, 512, 64)},
          {.shape = bert()},
          {.shape = bert(), .mask = "causal"},
          {.shape = bert(), .mask = "causal", .score = "alibi"},
          {.shape = shape(1, 8, 8, 8192, 8192, 64), .mask = kWindow},
          {.shape = shape(1, 32, 8, 1, 8192, 128), .decode = true}};
}

std::vector<Group> standard_table() {
  // Samples of what takes about a second on one thread, and about a tenth of that.
  constexpr int kFew = 5, kSome = 9;
  const AttentionShape wide = shape(1, 8, 8, 4096, 4096, 128),
                       grouped = shape(1, 32, 8, 2048, 2048, 128),
                       tall = shape(1, 8, 8, 8192, 8192, 64),
                       long_text = shape(1, 12, 12, 16384, 16384, 64),
                       sequences = shape(8, 12, 12, 512, 512, 64);
  const auto head = [](std::int64_t length) { return shape(1, 1, 1, length, length, 64); };
  return {
      {"forward",
       {{.shape = shape(1, 12, 12, 512, 512, 64)},
        {.shape = bert()},
        {.shape = tall, .samples = kFew},
        {.shape = wide, .samples = kFew},
        {.shape = shape(8, 12, 12, 128, 128, 64)},
        {.shape = bert(), .mask = "causal"},
        {.shape = grouped, .mask = "causal", .samples = kSome},
        {.shape = bert(), .mask = "causal", .score = "alibi"},
        {.shape = bert(), .mask = "causal", .score = "softcap:30"},
        {.shape = tall, .mask = kWindow}}},
      {"sparse",
       {{.shape = long_text, .samples = 3},
        {.shape = long_text, .mask = kLongformer, .samples = kFew},
        {.shape = long_text, .mask = kBigBird, .samples = kFew}},
       true},
      {"storage",
       {{.shape = bert(DType::bf16), .samples = kSome},
        {.shape = bert(DType::i8), .samples = kSome},
        {.shape = bert(), .layout = Layout::paged, .samples = kSome},
        {.shape = sequences, .ragged = true},
        {.shape = bert(), .dropout = 0.1, .samples = kSome}}},
      {"decode",
       {{.shape = llama(1), .decode = true},
        {.shape = llama(1, DType::bf16), .decode = true},
        {.shape = llama(1, DType::i8), .decode = true},
        {.shape = shape(16, 32, 8, 1, 2048, 128), .decode = true},
        {.shape = llama(4), .mask = "causal", .decode = true}}},
      {"small", {{.shape = shape(1, 4, 4, 16, 16, 32)}}},
      {"observers",
       {{.shape = bert(), .observe = Observing::one_pass, .samples = kSome},
        {.shape = bert(), .observe = Observing::two_passes, .samples = kSome}}},
      {"backward",
       {{.shape = bert(), .backward = true, .samples = kSome},
        {.shape = bert(), .mask = "causal", .backward = true, .samples = kSome},
        {.shape = wide, .backward = true, .samples = kFew},
        {.shape = wide, .mask = "causal", .backward = true, .samples = kFew},
        {.shape = grouped, .mask = "causal", .backward = true, .samples = kFew},
        {.shape = tall, .mask = kWindow, .backward = true, .samples = kSome},
        {.shape = bert(), .mask = "causal", .score = "alibi", .backward = true, .samples = kSome},
        {.shape = sequences, .backward = true, .ragged = true, .samples = kSome}}},
      {"recurrent", recurrences()},
      {"steps", steps()},
      // One head's matrix of scores would take 17 GB at 65,536 tokens, 69 at 131,072.
      {"memory",
       {{.shape = head(65536), .samples = 1},
        {.shape = head(131072), .mask = "causal", .samples = 1},
        {.shape = head(131072), .mask = kWindow, .samples = 1},
        {.shape = head(16384), .backward = true, .samples = 1},
        {.shape = head(131072), .mask = kWindow, .backward = true, .samples = 1},
        {.shape = head(131072),
         .mask = "causal",
         .observe = Observing::two_passes,
         .samples = 1,
         .alone = true}},
       true},
  };
}

}  // namespace attn::cli
