// What observers need beside the forward pass: the softmax of each row, kept from it, and a second
// pass over the tiles that matter.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "attention/plan.h"
#include "kernels/observe.h"

namespace attn {

// Lives for one run. Memory grows with the rows and with what is asked, never with pairs.
class SecondPass {
 public:
  // `observed` is checked, needs a second pass and outlives this.
  SecondPass(const Plan::Impl& plan, const Observed& observed);

  // Where the forward pass is to leave the softmax of each row.
  kernels::Matrix softmax() const { return asked_.softmax; }
  // After the forward pass; `params` are its own.
  void run(const kernels::ForwardParams& params);

 private:
  void write_offsets() const;
  void write_mean() const;

  const Plan::Impl& plan_;
  const Observed& observed_;
  kernels::ObserveParams asked_;
  std::vector<double> softmax_, top_weights_;  // memory of floats or doubles
  std::vector<std::uint64_t> columns_, bins_, offset_mass_, offset_queries_, cells_;
  std::vector<std::int64_t> offsets_;  // ascending, each once
  std::vector<kernels::ObserveParams::KeyOfSet> keys_of_sets_;
  std::vector<kernels::ObserveParams::ExactRow> exact_rows_;
};

// "entropy on the way; second pass for column mass, top 8 keys"; empty when nothing is asked.
std::string describe(const Observed& observed);

}  // namespace attn
