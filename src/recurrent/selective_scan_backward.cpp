// Gradients of the selective scan. Those of b and c are sums over channels: each block of channels
// leaves its own, and they are added in the order of the blocks, whose cut no thread count changes.
#include <algorithm>
#include <vector>

#include "attention/parallel.h"
#include "attn/scan.h"
#include "base/check_scan.h"
#include "base/context_use.h"
#include "kernels/selective_scan.h"
#include "recurrent/channel_blocks.h"
#include "recurrent/scan_params.h"
#include "recurrent/shared_sums.h"

namespace attn {

namespace {

constexpr std::int64_t kChannels = 64;

// Sums over the channels of each block: [block][length][states].
template <class T>
class BlockSums {
 public:
  BlockSums(const Tensor& to, const std::vector<kernels::ChannelBlock>& blocks) : to_(to) {
    std::int64_t size = 0;
    for (const kernels::ChannelBlock& block : blocks) {
      begin_.push_back(size);
      size += block.length * to.width();
    }
    if (!to.empty()) sums_.resize(static_cast<std::size_t>(size));
  }
  void* of(std::size_t block) { return to_.empty() ? nullptr : sums_.data() + begin_[block]; }

  void write(const std::vector<kernels::ChannelBlock>& blocks) const {
    if (to_.empty()) return;
    for (std::size_t n = 0; n < blocks.size(); ++n) {
      const kernels::ChannelBlock& block = blocks[n];
      const bool first =
          n == 0 || blocks[n - 1].group != block.group || blocks[n - 1].sequence != block.sequence;
      for (std::int64_t t = 0; t < block.length; ++t) {
        const T* from = sums_.data() + begin_[n] + t * to_.width();
        T* row = to_.row<T>(block.batch, block.group, block.begin + t);
        for (std::int64_t i = 0; i < to_.width(); ++i) row[i] = first ? from[i] : row[i] + from[i];
      }
    }
  }

 private:
  Tensor to_;
  std::vector<std::int64_t> begin_;
  std::vector<T> sums_;
};

template <class T>
void run_backward(const ScanInputs& in, const ScanOutputGradients& d, const ScanGradients& to,
                  const ScanOptions& options, const std::vector<Stretch>& sequences,
                  const Context& context) {
  const kernels::ScanBackwardKernel& kernel =
      kernels::scan_backward_kernel(context.isa(), in.u.dtype);
  const auto count = static_cast<std::int64_t>(sequences.size());
  SharedSums da(to.a, count), dd(to.d, count), d_bias(to.delta_bias, count);
  const kernels::ScanBackwardParams params{.forward = scan_params(in, {}, options),
                                           .d_out = matrix_of(d.out),
                                           .d_state_out = matrix_of(d.state),
                                           .du = matrix_of(to.u),
                                           .d_delta = matrix_of(to.delta),
                                           .dz = matrix_of(to.z),
                                           .d_state = matrix_of(to.state),
                                           .da = da.matrix(),
                                           .dd = dd.matrix(),
                                           .d_delta_bias = d_bias.matrix(),
                                           .tokens_kept = tokens_kept(in.u.length())};
  // Wide enough that their sums take no more memory than u.
  const ChannelCut cut{.channels = in.u.width(), .groups = in.b.heads(), .lanes = kernel.lanes};
  const std::vector<kernels::ChannelBlock> blocks =
      channel_blocks(sequences, cut, std::max(kChannels, params.forward.states));
  BlockSums<T> db(to.b, blocks), dc(to.c, blocks);
  parallel_units(context.threads(), static_cast<std::int64_t>(blocks.size()),
                 [&](int thread, std::int64_t unit) {
                   const auto n = static_cast<std::size_t>(unit);
                   const kernels::ChannelBlock& block = blocks[n];
                   kernel.run(params, block, {db.of(n), dc.of(n)},
                              context.workspace(thread, kernel.workspace_bytes(params, block.length,
                                                                               block.channels)));
                 });
  for (const SharedSums* sums : {&da, &dd, &d_bias}) sums->write();
  db.write(blocks);
  dc.write(blocks);
}

}  // namespace

void selective_scan_backward(const ScanInputs& in, const ScanOutputGradients& d,
                             const ScanGradients& to, const ScanOptions& options,
                             const Context& context) {
  const Checker check("selective_scan_backward");
  const std::vector<Stretch> sequences = check_scan(check, in, options);
  check_gradients(check, in, d, to, static_cast<std::int64_t>(sequences.size()));
  const ContextUse use(context);
  if (in.u.dtype == DType::f64)
    run_backward<double>(in, d, to, options, sequences, context);
  else
    run_backward<float>(in, d, to, options, sequences, context);
}

}  // namespace attn
