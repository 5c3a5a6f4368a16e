// Validation of the arguments of attn/scan.h, shared by the oracle and the fast path. All throw
// std::invalid_argument in the name of the public function.
#pragma once

#include <vector>

#include "attn/scan.h"
#include "base/checker.h"

namespace attn {

// The tokens of one sequence in the tensors.
struct Stretch {
  std::int64_t batch = 0, begin = 0, length = 0;
};

// One for each entry of x's batch, or for each part between `offsets`.
std::vector<Stretch> sequences_of(const Checker& check, const ConstTensor& x,
                                  const std::vector<std::int64_t>& offsets);

// Each returns the sequences.
std::vector<Stretch> check_convolution(const Checker& check, const ConvolutionInputs& inputs,
                                       const ConvolutionOptions& options);
std::vector<Stretch> check_scan(const Checker& check, const ScanInputs& inputs,
                                const ScanOptions& options);
std::vector<Stretch> check_wkv4(const Checker& check, const Wkv4Inputs& inputs,
                                const Wkv4Options& options);

void check_outputs(const Checker& check, const ConvolutionInputs& inputs,
                   const ConvolutionOutputs& outputs, std::int64_t sequences);
void check_outputs(const Checker& check, const ScanInputs& inputs, const ScanOutputs& outputs,
                   std::int64_t sequences);
void check_outputs(const Checker& check, const Wkv4Inputs& inputs, const Wkv4Outputs& outputs,
                   std::int64_t sequences);

// Where gradients come from and go to.
void check_gradients(const Checker& check, const ConvolutionInputs& inputs,
                     const ConvolutionOutputGradients& from, const ConvolutionGradients& to,
                     std::int64_t sequences);
void check_gradients(const Checker& check, const ScanInputs& inputs,
                     const ScanOutputGradients& from, const ScanGradients& to,
                     std::int64_t sequences);
void check_gradients(const Checker& check, const Wkv4Inputs& inputs,
                     const Wkv4OutputGradients& from, const Wkv4Gradients& to,
                     std::int64_t sequences);

}  // namespace attn
