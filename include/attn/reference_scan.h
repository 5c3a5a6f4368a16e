// The oracle of attn/scan.h: the definitions once more, plain, in double precision, whatever the
// type of the tensors. Slow on purpose. Same arguments, same errors.
#pragma once

#include "attn/scan.h"

namespace attn::reference {

void causal_convolution(const ConvolutionInputs& inputs, const ConvolutionOutputs& outputs,
                        const ConvolutionOptions& options = {});

void selective_scan(const ScanInputs& inputs, const ScanOutputs& outputs,
                    const ScanOptions& options = {});

// From the sum over all tokens before, not from the recurrence: quadratic in the length.
void wkv4(const Wkv4Inputs& inputs, const Wkv4Outputs& outputs, const Wkv4Options& options = {});

}  // namespace attn::reference
