// Elementary functions and conversions that g++ turns into vector code, and nvcc into a kernel's. Included only by the
// files that are compiled once for each instruction set, so everything lives in a namespace named after that set: the
// linker must never pick the AVX-512 copy of an inline function for a machine without AVX-512. For the same reason no
// template of the standard library is used here.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "lmhead/kernels/vector/row_kernels.h"

#ifndef LMHEAD_VECTOR_LEVEL
#error "LMHEAD_VECTOR_LEVEL must name the instruction set that this file is compiled for"
#endif

#ifdef __CUDACC__
#define LMHEAD_BOTH __host__ __device__
#else
#define LMHEAD_BOTH
#endif

namespace lmhead::vector::LMHEAD_VECTOR_LEVEL {

LMHEAD_BOTH inline float from_bits(std::uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}
LMHEAD_BOTH inline double from_bits(std::uint64_t bits) {
  double value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}
LMHEAD_BOTH inline std::uint64_t to_bits(double value) {
  std::uint64_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}
LMHEAD_BOTH inline std::uint32_t to_bits(float value) {
  std::uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}

template <class T>
struct Numbers;  // the type that a stored type is computed in
template <>
struct Numbers<float> {
  using Wide = float;
};
template <>
struct Numbers<double> {
  using Wide = double;
};
template <>
struct Numbers<Bfloat16> {
  using Wide = float;
};

LMHEAD_BOTH inline float load(float value) { return value; }
LMHEAD_BOTH inline double load(double value) { return value; }
LMHEAD_BOTH inline float load(Bfloat16 value) { return from_bits(static_cast<std::uint32_t>(value.bits) << 16); }
LMHEAD_BOTH inline void store(float value, float& place) { place = value; }
LMHEAD_BOTH inline void store(double value, double& place) { place = value; }
LMHEAD_BOTH inline void store(float value, double& place) { place = value; }
LMHEAD_BOTH inline void store(double value, float& place) { place = static_cast<float>(value); }
LMHEAD_BOTH inline void store(float value, Bfloat16& place) {  // round to nearest, ties to even
  const std::uint32_t bits = to_bits(value);
  const std::uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  place.bits = static_cast<std::uint16_t>(value == value ? rounded : 0x7fc0u);
}
LMHEAD_BOTH inline void store(double value, Bfloat16& place) { store(static_cast<float>(value), place); }

/// e^x, within 1.5 units in the last place; 0 below the smallest normal result, infinity from half of the largest on.
LMHEAD_BOTH inline float exponential(float x) {
  constexpr float kRound = 12582912.f;  // 1.5 * 2^23: adding it leaves the nearest integer in the low bits
  const float shifted = x * 1.44269504088896341f + kRound;
  const float n = shifted - kRound;
  float r = x - n * 0.693359375f;
  r = r - n * -2.12194440e-4f;
  float p = 1.9875691500e-4f;  // Cephes expf
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * (r * r) + r + 1.f;
  const float power = from_bits((to_bits(shifted) - to_bits(kRound) + 127u) << 23);
  float result = p * power;
  result = x < -87.33654f ? 0.f : result;
  return x > 88.37626f ? from_bits(0x7f800000u) : result;
}
LMHEAD_BOTH inline double exponential(double x) {
  constexpr double kRound = 6755399441055744.;  // 1.5 * 2^52
  const double shifted = x * 1.4426950408889634074 + kRound;
  const double n = shifted - kRound;
  double r = x - n * 6.93145751953125e-1;
  r = r - n * 1.42860682030941723212e-6;
  const double square = r * r;
  double p = 1.26177193074810590878e-4;  // Cephes exp
  p = p * square + 3.02994407707441961300e-2;
  p = (p * square + 1.) * r;
  double q = 3.00198505138664455042e-6;
  q = q * square + 2.52448340349684104192e-3;
  q = q * square + 2.27265548208155028766e-1;
  q = q * square + 2.;
  const double fraction = p / (q - p);
  const double power = from_bits((to_bits(shifted) - to_bits(kRound) + 1023u) << 52);
  double result = (1. + (fraction + fraction)) * power;
  result = x < -708.3964185322641 ? 0. : result;
  return x > 709.4361393031048 ? from_bits(std::uint64_t(0x7ff0000000000000)) : result;
}

/// tanh(x), within 2 units in the last place.
LMHEAD_BOTH inline float hyperbolic_tangent(float x) {
  const float magnitude = x < 0 ? -x : x;
  const float square = x * x;
  float p = -5.70498872745e-3f;  // Cephes tanhf
  p = p * square + 2.06390887954e-2f;
  p = p * square - 5.37397155531e-2f;
  p = p * square + 1.33314422036e-1f;
  p = p * square - 3.33332819422e-1f;
  const float near = p * square * x + x;
  const float far = 1.f - 2.f / (exponential(magnitude + magnitude) + 1.f);
  return magnitude < 0.625f ? near : x < 0 ? -far : far;
}
LMHEAD_BOTH inline double hyperbolic_tangent(double x) { return std::tanh(x); }

/// log(1 + x) for 0 <= x <= 1, within 1e-7: twice the inverse hyperbolic tangent of x / (2 + x).
LMHEAD_BOTH inline float log_of_one_and(float x) {
  const float s = x / (2.f + x), square = s * s;
  float p = 2.f / 13.f;
  p = p * square + 2.f / 11.f;
  p = p * square + 2.f / 9.f;
  p = p * square + 2.f / 7.f;
  p = p * square + 2.f / 5.f;
  p = p * square + 2.f / 3.f;
  return s * (p * square + 2.f);
}
LMHEAD_BOTH inline double log_of_one_and(double x) { return std::log1p(x); }

LMHEAD_BOTH inline float square_root(float x) { return __builtin_sqrtf(x); }
LMHEAD_BOTH inline double square_root(double x) { return __builtin_sqrt(x); }

}  // namespace lmhead::vector::LMHEAD_VECTOR_LEVEL
