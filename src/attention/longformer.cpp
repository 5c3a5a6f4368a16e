#include "attn/longformer.h"

#include <algorithm>
#include <cstring>
#include <string>
#include <utility>

#include "base/check.h"
#include "base/checker.h"

namespace attn {
namespace {

constexpr Checker kCheck("longformer");

std::size_t at(std::int64_t i) { return static_cast<std::size_t>(i); }

std::int64_t sequences(const AttentionShape& shape, const LongformerOptions& options) {
  return options.offsets.empty() ? shape.batch
                                 : static_cast<std::int64_t>(options.offsets.size()) - 1;
}

std::int64_t length_of(const AttentionShape& shape, const LongformerOptions& options,
                       std::int64_t sequence) {
  if (!options.offsets.empty())
    return options.offsets[at(sequence + 1)] - options.offsets[at(sequence)];
  return options.lengths.empty() ? shape.k_len : options.lengths[at(sequence)];
}

const std::vector<std::int64_t>& tokens_of(const LongformerOptions& options,
                                           std::int64_t sequence) {
  static const std::vector<std::int64_t> none;
  const auto& lists = options.global_tokens;
  return lists.empty() ? none : lists[lists.size() == 1 ? 0 : at(sequence)];
}

// What the two plans do not check themselves.
void check(const AttentionShape& shape, const LongformerOptions& options) {
  kCheck.same("q_len", shape.q_len, "k_len", shape.k_len, "length");
  if (options.window < 0) kCheck.fail("window is " + text(options.window));
  const auto listed = [&](const char* what, std::size_t has, std::int64_t wanted) {
    if (has > 1 && has != at(wanted)) {
      kCheck.fail(std::string(what) + " has " + std::to_string(has) + " entries, needs " +
                  text(wanted));
    }
  };
  listed("dilation", options.dilation.size(), shape.q_heads);
  for (const std::int64_t d : options.dilation) {
    if (d < 1) kCheck.fail("dilation is " + text(d) + ", must be at least 1");
  }
  if (!options.offsets.empty() && !options.lengths.empty())
    kCheck.fail("offsets and lengths are given; sequences of offsets have no padding");
  if (!options.lengths.empty() && options.lengths.size() != at(shape.batch)) {
    kCheck.fail("lengths has " + std::to_string(options.lengths.size()) + " entries for batch " +
                text(shape.batch));
  }
  const std::int64_t count = sequences(shape, options);
  listed("global_tokens", options.global_tokens.size(), count);
  for (std::int64_t s = 0; s < count; ++s) {
    const std::vector<std::int64_t>& tokens = tokens_of(options, s);
    const std::int64_t length = length_of(shape, options, s);
    std::int64_t last = -1;
    for (const std::int64_t t : tokens) {
      if (t <= last || t >= length) {
        kCheck.fail("global token " + text(t) + " of sequence " + text(s) +
                    (t >= length ? " is past its " + text(length) + " tokens"
                                 : " is negative, or does not follow the one before"));
      }
      last = t;
    }
    if (options.offsets.empty() && tokens.size() != tokens_of(options, 0).size()) {
      kCheck.fail("sequence " + text(s) + " has " + std::to_string(tokens.size()) +
                  " global tokens, the first " + std::to_string(tokens_of(options, 0).size()) +
                  "; give them as one batch entry with offsets");
    }
  }
}

const AttentionShape& checked(const AttentionShape& shape, const LongformerOptions& options) {
  if (!options.offsets.empty()) {  // ends are read below; plan() checks them as a whole
    if (shape.batch != 1) kCheck.fail("offsets need batch 1, not " + text(shape.batch));
    if (options.offsets.front() != 0 || options.offsets.back() != shape.k_len ||
        !std::is_sorted(options.offsets.begin(), options.offsets.end())) {
      kCheck.fail("offsets must ascend from 0 to " + text(shape.k_len));
    }
  }
  check(shape, options);
  return shape;
}

AttentionOptions shared_options(const LongformerOptions& options) {
  AttentionOptions o;
  o.score.scale = options.scale;
  if (!options.lengths.empty()) o.mask = Mask::padding(options.lengths);
  return o;
}

AttentionOptions local_options(const AttentionShape& shape, const LongformerOptions& options) {
  const auto of_sequence = [&](std::int64_t s) {
    const std::vector<std::int64_t>& tokens = tokens_of(options, s);
    if (options.dilation.size() <= 1) {
      return Mask::longformer(options.window, tokens,
                              options.dilation.empty() ? 1 : options.dilation[0]);
    }
    std::vector<Mask> heads;
    for (const std::int64_t d : options.dilation)
      heads.push_back(Mask::longformer(options.window, tokens, d));
    return Mask::per_head(std::move(heads));
  };
  AttentionOptions o = shared_options(options);
  Mask mask = of_sequence(0);
  if (options.global_tokens.size() > 1) {
    std::vector<Mask> each;
    for (std::int64_t s = 0; s < sequences(shape, options); ++s) each.push_back(of_sequence(s));
    mask = Mask::per_batch(std::move(each));
  }
  o.mask = options.lengths.empty() ? mask : mask & o.mask;
  if (!options.offsets.empty())
    o.ragged = {.q_offsets = options.offsets, .k_offsets = options.offsets};
  return o;
}

AttentionOptions global_options(const AttentionShape& shape, const LongformerOptions& options) {
  AttentionOptions o = shared_options(options);
  if (options.offsets.empty()) return o;
  o.ragged = {.q_offsets = {0}, .k_offsets = options.offsets};
  for (std::int64_t s = 0; s < sequences(shape, options); ++s) {
    o.ragged.q_offsets.push_back(o.ragged.q_offsets.back() +
                                 static_cast<std::int64_t>(tokens_of(options, s).size()));
  }
  return o;
}

// Copies rows between tensors of one type and of these shapes.
void copy_row(const ConstTensor& from, std::int64_t from_batch, std::int64_t from_row,
              const Tensor& to, std::int64_t to_batch, std::int64_t to_row) {
  const auto size = static_cast<std::int64_t>(size_of(from.dtype));
  for (std::int64_t h = 0; h < from.heads(); ++h) {
    std::memcpy(static_cast<char*>(to.data) + to.offset(to_batch, h, to_row) * size,
                static_cast<const char*>(from.data) + from.offset(from_batch, h, from_row) * size,
                at(from.width() * size));
  }
}

}  // namespace

LongformerPlan::LongformerPlan(const AttentionShape& shape, const LongformerOptions& options,
                               const Context& context)
    : shape_(checked(shape, options)), local_(plan(shape, local_options(shape, options), context)) {
  if (shape_.v_width == 0) shape_.v_width = shape_.width;
  const bool ragged = !options.offsets.empty();
  for (std::int64_t s = 0; s < sequences(shape, options); ++s) {
    for (const std::int64_t t : tokens_of(options, s)) {
      rows_.push_back(ragged ? Row{0, options.offsets[at(s)] + t} : Row{s, t});
    }
  }
  if (rows_.empty()) return;
  AttentionShape global = shape;
  global.q_len = global_rows() / shape.batch;
  global_ = plan(global, global_options(shape, options), context);
}

Tensor LongformerPlan::global_view(std::vector<char>& memory, std::int64_t width,
                                   DType dtype) const {
  const Shape shape{shape_.batch, shape_.q_heads, global_rows() / shape_.batch, width};
  memory.assign(at(shape[0] * shape[1] * shape[2] * shape[3]) * size_of(dtype), 0);
  return {memory.data(), dtype, shape, strides_bhld(shape)};
}

void LongformerPlan::run(const LongformerInputs& inputs, const LongformerOutputs& outputs) const {
  local_.run(inputs.q, inputs.k, inputs.v, outputs.out, {.lse = outputs.lse});
  if (!global_) return;
  std::vector<char> memory;
  const Tensor rows = global_view(memory, shape_.v_width, outputs.out.dtype);
  global_->run(inputs.global_q, inputs.global_k, inputs.global_v, rows,
               {.lse = outputs.global_lse});
  const std::int64_t each = rows.length();
  for (std::int64_t i = 0; i < global_rows(); ++i)
    copy_row(rows, i / each, i % each, outputs.out, rows_[at(i)].batch, rows_[at(i)].index);
}

void LongformerPlan::backward(const LongformerInputs& inputs, const LongformerOutputs& outputs,
                              const ConstTensor& d_out, const LongformerGradients& to) const {
  const AttentionInputs local{inputs.q, inputs.k, inputs.v};
  const InputGradients local_to{.q = to.q, .k = to.k, .v = to.v};
  if (!global_) {
    local_.backward(local, {.out = outputs.out, .lse = outputs.lse}, {.out = d_out}, local_to);
    return;
  }
  const Shape expected{shape_.batch, shape_.q_heads, shape_.q_len, shape_.v_width};
  kCheck.shape("out", outputs.out, expected);
  kCheck.shape("d_out", d_out, expected);
  // A row belongs to one of the two runs: to the other it is a row of zeros.
  const DType dtype = d_out.dtype;
  std::vector<char> global_memory, global_d_memory;
  const Tensor global_out = global_view(global_memory, shape_.v_width, dtype),
               global_d_out = global_view(global_d_memory, shape_.v_width, dtype);
  const auto copied = [&](const ConstTensor& x, std::vector<char>& memory, const Tensor& apart) {
    memory.resize(at(x.size()) * size_of(dtype));
    const Tensor copy{memory.data(), dtype, expected, strides_bhld(expected)};
    for (std::int64_t b = 0; b < x.batch(); ++b) {
      for (std::int64_t i = 0; i < x.length(); ++i) copy_row(x, b, i, copy, b, i);
    }
    const std::int64_t each = apart.length();
    std::vector<char> zero_memory;
    const Tensor zeros = global_view(zero_memory, shape_.v_width, dtype);
    for (std::int64_t i = 0; i < global_rows(); ++i) {
      const Row row = rows_[at(i)];
      copy_row(x, row.batch, row.index, apart, i / each, i % each);
      copy_row(zeros, i / each, i % each, copy, row.batch, row.index);
    }
    return copy;
  };
  std::vector<char> out_memory, d_out_memory;
  const Tensor out = copied(outputs.out, out_memory, global_out),
               local_d_out = copied(d_out, d_out_memory, global_d_out);
  local_.backward(local, {.out = out, .lse = outputs.lse}, {.out = local_d_out}, local_to);
  global_->backward({inputs.global_q, inputs.global_k, inputs.global_v},
                    {.out = global_out, .lse = outputs.global_lse}, {.out = global_d_out},
                    {.q = to.global_q, .k = to.global_k, .v = to.global_v});
}

}  // namespace attn
