// Logits and their slopes, one number at a time: what the vector loops of the CPU and the CUDA kernel have in common.
#pragma once

#include "lmhead/kernels/vector/elementary.h"

namespace lmhead::vector::LMHEAD_VECTOR_LEVEL {

// The maps of LogitTransform.
template <class Wide>
LMHEAD_BOTH inline Wide softcapped(Wide z, Wide cap) {
  return hyperbolic_tangent(z / cap) * cap;
}
template <class Wide>
LMHEAD_BOTH inline Wide sigmoid_capped(Wide z, Wide height, Wide shift, Wide width) {
  return height / (Wide(1) + exponential(-((z + shift) / width)));
}
/// 2 z - softplus(z), written so that neither end overflows.
template <class Wide>
LMHEAD_BOTH inline Wide sigsoftmaxed(Wide z) {
  const Wide magnitude = z < 0 ? -z : z;
  return z + (z < 0 ? z : Wide(0)) - log_of_one_and(exponential(-magnitude));
}

/// The z whose logit that is: with t = e^z, e^logit = t^2 / (1 + t).
inline double sigsoftmax_argument(double logit) {
  if (logit < -600) return logit / 2;  // where e^-logit has no double
  return logit + std::log((1 + std::sqrt(1 + 4 * std::exp(-logit))) / 2);
}

/// The map's slope there.
template <class Wide>
inline Wide sigsoftmax_slope(Wide z) {
  return 2 - 1 / (1 + exponential(-z));
}

template <class Wide>
struct SigsoftmaxTerms {
  Wide exponential, slope;  // e^(f(z) - f(pivot)) and, where that is not 0, f'(z); f is the map
};
/// Both from one exponential and one division, for z up to a pivot or little above: with e = e^(z - pivot), the sigmoid
/// of z is a e / (a e + b), where a / b is e^pivot and neither is above 1. At the pivot the exponential is exactly 1.
template <class Wide>
struct SigsoftmaxAround {
  explicit SigsoftmaxAround(Wide given) : pivot(given), a(given < 0 ? exponential(given) : 1) {
    b = given < 0 ? Wide(1) : exponential(-given);
    b = b > kLeast ? b : kLeast;  // so that 0 is divided by something
    whole = a + b, share = a / whole;
  }
  SigsoftmaxTerms<Wide> operator()(Wide z) const {
    const Wide e = exponential(z - pivot), ratio = whole * e / (a * e + b);
    return {e * ratio, 2 - share * ratio};
  }
  static constexpr Wide kLeast = static_cast<Wide>(1e-37);
  Wide pivot, a, b, whole, share;
};

/// Slopes of the maps, from the logits that they gave times `inverse_temperature`.
template <class Wide>
struct NoSlope {
  LMHEAD_BOTH Wide operator()(Wide) const { return 1; }
  LMHEAD_BOTH Wide of_target(Wide) const { return 1; }
};
template <class Wide>
struct SoftcapSlope {
  Wide cap, inverse_cap;
  LMHEAD_BOTH Wide operator()(Wide logit) const {
    const Wide share = logit * inverse_cap;
    return 1 - share * share;
  }
  LMHEAD_BOTH Wide of_target(Wide logit) const {
    const Wide share = logit / cap;
    return 1 - share * share;
  }
};
template <class Wide>
struct SigmoidCapSlope {
  Wide inverse_height, steepness;  // A / c
  LMHEAD_BOTH Wide operator()(Wide logit) const {
    const Wide share = logit * inverse_height;
    return share * (1 - share) * steepness;
  }
  LMHEAD_BOTH Wide of_target(Wide logit) const { return (*this)(logit); }
};
template <class Wide>
struct SigsoftmaxSlope {
  Wide temperature;
  // With t = e^z: e^logit = t^2 / (1 + t), and so sigma(z) = 2 / (1 + sqrt(1 + 4 e^-logit)).
  LMHEAD_BOTH Wide operator()(Wide logit) const {
    return 2 - 2 / (1 + square_root(1 + 4 * exponential(-(logit * temperature))));
  }
  LMHEAD_BOTH Wide of_target(Wide logit) const { return (*this)(logit); }
};

}  // namespace lmhead::vector::LMHEAD_VECTOR_LEVEL
