// Mamba's selective scan: checks, and the loop over blocks of channels.
#include "kernels/selective_scan.h"

#include <algorithm>

#include "attention/parallel.h"
#include "attn/scan.h"
#include "base/check_scan.h"
#include "base/context_use.h"
#include "recurrent/channel_blocks.h"
#include "recurrent/scan_params.h"

namespace attn {

void selective_scan(const ScanInputs& in, const ScanOutputs& to, const ScanOptions& options,
                    const Context& context) {
  const Checker check("selective_scan");
  const std::vector<Stretch> sequences = check_scan(check, in, options);
  check_outputs(check, in, to, static_cast<std::int64_t>(sequences.size()));
  const ContextUse use(context);
  const kernels::ScanKernel& kernel = kernels::scan_kernel(context.isa(), in.u.dtype);
  const kernels::ScanParams params = scan_params(in, to, options);
  const ChannelBlocks work = cut_channels(sequences, {.channels = in.u.width(),
                                                      .groups = in.b.heads(),
                                                      .lanes = kernel.lanes,
                                                      .width = kernel.channels(params.states),
                                                      .states = params.states,
                                                      .threads = context.threads()});
  const auto run = [&](int thread, std::int64_t unit) {
    const kernels::ChannelBlock& block = work.blocks[static_cast<std::size_t>(unit)];
    kernel.run(
        params, block,
        context.workspace(thread, kernel.workspace_bytes(params, block.length, block.channels)));
  };
  const auto units = static_cast<std::int64_t>(work.blocks.size());
  // Of one token the states of the next sequence are fetched ahead.
  const bool one_token = std::all_of(work.blocks.begin(), work.blocks.end(),
                                     [](const auto& block) { return block.length == 1; });
  one_token ? parallel_stretches(work.threads, units, run)
            : parallel_units(work.threads, units, run);
}

}  // namespace attn
