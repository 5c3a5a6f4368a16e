// RWKV-4's weighted mean: checks, and the loop over blocks of channels.
#include "kernels/wkv4.h"

#include "attention/parallel.h"
#include "attention/plan.h"
#include "attn/scan.h"
#include "base/check_scan.h"
#include "base/context_use.h"
#include "recurrent/channel_blocks.h"
#include "recurrent/shared_sums.h"

namespace attn {

namespace {

// Channels of a block: a row of them is a long piece of memory, and the state stays in L1.
constexpr std::int64_t kChannels = 1024;
constexpr std::int64_t kExponentials = 2;  // of a token

kernels::Wkv4Params params_of(const Wkv4Inputs& in) {
  kernels::Wkv4Params p;
  p.k = matrix_of(in.k);
  p.v = matrix_of(in.v);
  p.decay = matrix_of(in.decay);
  p.bonus = matrix_of(in.bonus);
  p.state = matrix_of(in.state);
  return p;
}

ChannelBlocks blocks_of(const Wkv4Inputs& in, const std::vector<Stretch>& sequences,
                        std::int64_t lanes, const Context& context) {
  return cut_channels(sequences, {.channels = in.k.width(),
                                  .lanes = lanes,
                                  .width = kChannels,
                                  .states = kExponentials,
                                  .threads = context.threads()});
}

}  // namespace

void wkv4(const Wkv4Inputs& in, const Wkv4Outputs& to, const Wkv4Options& options,
          const Context& context) {
  const Checker check("wkv4");
  const std::vector<Stretch> sequences = check_wkv4(check, in, options);
  check_outputs(check, in, to, static_cast<std::int64_t>(sequences.size()));
  const ContextUse use(context);
  const kernels::Wkv4Kernel& kernel = kernels::wkv4_kernel(context.isa(), in.k.dtype);
  kernels::Wkv4Params params = params_of(in);
  params.out = matrix_of(to.out);
  params.state_out = matrix_of(to.state);
  const ChannelBlocks work = blocks_of(in, sequences, kernel.lanes, context);
  parallel_units(work.threads, static_cast<std::int64_t>(work.blocks.size()),
                 [&](int thread, std::int64_t unit) {
                   const auto& block = work.blocks[static_cast<std::size_t>(unit)];
                   kernel.run(params, block,
                              context.workspace(thread, kernel.workspace_bytes(block.channels)));
                 });
}

void wkv4_backward(const Wkv4Inputs& in, const Wkv4OutputGradients& d, const Wkv4Gradients& to,
                   const Wkv4Options& options, const Context& context) {
  const Checker check("wkv4_backward");
  const std::vector<Stretch> sequences = check_wkv4(check, in, options);
  const auto count = static_cast<std::int64_t>(sequences.size());
  check_gradients(check, in, d, to, count);
  const ContextUse use(context);
  const kernels::Wkv4Kernel& kernel = kernels::wkv4_kernel(context.isa(), in.k.dtype);
  SharedSums d_decay(to.decay, count), d_bonus(to.bonus, count);
  kernels::Wkv4Params params = params_of(in);
  params.d_out = matrix_of(d.out);
  params.d_state_out = matrix_of(d.state);
  params.dk = matrix_of(to.k);
  params.dv = matrix_of(to.v);
  params.d_state = matrix_of(to.state);
  params.d_decay = d_decay.matrix();
  params.d_bonus = d_bonus.matrix();
  params.tokens_kept = tokens_kept(in.k.length());
  const ChannelBlocks work = blocks_of(in, sequences, kernel.lanes, context);
  parallel_units(work.threads, static_cast<std::int64_t>(work.blocks.size()),
                 [&](int thread, std::int64_t unit) {
                   const auto& block = work.blocks[static_cast<std::size_t>(unit)];
                   kernel.backward(
                       params, block,
                       context.workspace(thread, kernel.backward_workspace_bytes(
                                                     params, block.length, block.channels)));
                 });
  d_decay.write();
  d_bonus.write();
}

}  // namespace attn
