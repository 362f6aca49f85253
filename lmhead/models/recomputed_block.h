// Activation checkpointing: a block of a decoder keeps its input alone and is computed again in the backward pass.
#pragma once

#include <ATen/core/Tensor.h>

#include <functional>

namespace lmhead {

using DecoderBlock = std::function<at::Tensor(const at::Tensor& input)>;

/// `block(input)`, with the same bits and the same gradients, of which only `input` is kept for the backward pass
/// (Chen et al. 2016, arXiv 1604.06174). The parameters that `block` uses get their gradients there; what it refers to
/// must live until then, and it must draw nothing. The block itself where nothing is to be differentiated. First
/// derivatives alone.
at::Tensor recomputed(const DecoderBlock& block, const at::Tensor& input);

}  // namespace lmhead
