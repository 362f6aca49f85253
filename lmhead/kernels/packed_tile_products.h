// The products of a tile of bfloat16 logits by packed_product.h.
#pragma once

#include <memory>

#include "lmhead/kernels/tile_products.h"

namespace lmhead {

/// Where `tiling.packed`. `adds_up` as in make_tile_products.
std::unique_ptr<TileProducts<vector::Bfloat16>> make_packed_products(const LogitPass& pass, const LogitTiling& tiling,
                                                                     bool adds_up);

}  // namespace lmhead
