// Mamba's causal convolution: checks, the loop over blocks of channels, states that join.
#include "kernels/convolution.h"

#include <algorithm>

#include "attention/parallel.h"
#include "attention/plan.h"
#include "attn/scan.h"
#include "base/check_scan.h"
#include "base/context_use.h"
#include "recurrent/channel_blocks.h"
#include "recurrent/shared_sums.h"

namespace attn {

namespace {

// Channels of a block: a row of them is a long piece of memory, and `width` rows stay in L1.
constexpr std::int64_t kChannels = 1024;

kernels::ConvolutionParams params_of(const ConvolutionInputs& in,
                                     const ConvolutionOptions& options) {
  kernels::ConvolutionParams p;
  p.x = matrix_of(in.x);
  p.weight = matrix_of(in.weight);
  p.bias = matrix_of(in.bias);
  p.state = matrix_of(in.state);
  p.width = in.weight.length();
  p.silu = options.silu;
  return p;
}

ChannelBlocks blocks_of(const ConvolutionInputs& in, const std::vector<Stretch>& sequences,
                        std::int64_t lanes, const Context& context) {
  return cut_channels(
      sequences,
      {.channels = in.x.width(), .lanes = lanes, .width = kChannels, .threads = context.threads()});
}

}  // namespace

void causal_convolution(const ConvolutionInputs& in, const ConvolutionOutputs& to,
                        const ConvolutionOptions& options, const Context& context) {
  const Checker check("causal_convolution");
  const std::vector<Stretch> sequences = check_convolution(check, in, options);
  check_outputs(check, in, to, static_cast<std::int64_t>(sequences.size()));
  const ContextUse use(context);
  const kernels::ConvolutionKernel& kernel = kernels::convolution_kernel(context.isa(), in.x.dtype);
  kernels::ConvolutionParams params = params_of(in, options);
  params.out = matrix_of(to.out);
  params.state_out = matrix_of(to.state);
  const ChannelBlocks work = blocks_of(in, sequences, kernel.lanes, context);
  parallel_units(work.threads, static_cast<std::int64_t>(work.blocks.size()),
                 [&](int, std::int64_t unit) {
                   kernel.run(params, work.blocks[static_cast<std::size_t>(unit)]);
                 });
}

void causal_convolution_backward(const ConvolutionInputs& in, const ConvolutionOutputGradients& d,
                                 const ConvolutionGradients& to, const ConvolutionOptions& options,
                                 const Context& context) {
  const Checker check("causal_convolution_backward");
  const std::vector<Stretch> sequences = check_convolution(check, in, options);
  const auto count = static_cast<std::int64_t>(sequences.size());
  check_gradients(check, in, d, to, count);
  const ContextUse use(context);
  const kernels::ConvolutionKernel& kernel = kernels::convolution_kernel(context.isa(), in.x.dtype);
  SharedSums d_weight(to.weight, count), d_bias(to.bias, count);
  kernels::ConvolutionParams params = params_of(in, options);
  params.d_out = matrix_of(d.out);
  params.d_state_out = matrix_of(d.state);
  params.dx = matrix_of(to.x);
  params.d_state = matrix_of(to.state);
  params.d_weight = d_weight.matrix();
  params.d_bias = d_bias.matrix();
  const ChannelBlocks work = blocks_of(in, sequences, kernel.lanes, context);
  parallel_units(work.threads, static_cast<std::int64_t>(work.blocks.size()),
                 [&](int, std::int64_t unit) {
                   kernel.backward(params, work.blocks[static_cast<std::size_t>(unit)]);
                 });
  d_weight.write();
  d_bias.write();
}

}  // namespace attn
