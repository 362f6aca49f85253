#include "lmhead/base/random.h"

#include <cmath>
#include <cstdio>
#include <numbers>

namespace lmhead {
namespace {

std::uint64_t mix(std::uint64_t value) {  // the finaliser of SplitMix64
  value = (value ^ (value >> 30)) * 0xbf58476d1ce4e5b9ULL;
  value = (value ^ (value >> 27)) * 0x94d049bb133111ebULL;
  return value ^ (value >> 31);
}

}  // namespace

std::uint64_t hash_text(std::string_view text) {
  std::uint64_t hash = 0xcbf29ce484222325ULL;
  for (unsigned char byte : text) hash = (hash ^ byte) * 0x100000001b3ULL;
  return mix(hash);
}

std::string hash_text_in_hex(std::string_view text) {
  char digits[17];
  std::snprintf(digits, sizeof digits, "%016llx", static_cast<unsigned long long>(hash_text(text)));
  return digits;
}

RandomStream::RandomStream(std::uint64_t seed, std::string_view name, std::uint64_t index) {
  const std::uint64_t key = mix(seed + 0x9e3779b97f4a7c15ULL) ^ hash_text(name);
  key_ = {std::uint32_t(key), std::uint32_t(key >> 32)};
  counter_ = {0, 0, std::uint32_t(index), std::uint32_t(index >> 32)};
}

void RandomStream::refill() {
  std::array<std::uint32_t, 4> x = counter_;
  std::array<std::uint32_t, 2> key = key_;
  for (int round = 0; round < 10; ++round) {
    const std::uint64_t p0 = 0xD2511F53ULL * x[0], p1 = 0xCD9E8D57ULL * x[2];
    x = {std::uint32_t(p1 >> 32) ^ x[1] ^ key[0], std::uint32_t(p1), std::uint32_t(p0 >> 32) ^ x[3] ^ key[1],
         std::uint32_t(p0)};
    key[0] += 0x9E3779B9U;
    key[1] += 0xBB67AE85U;
  }
  block_ = x;
  used_ = 0;
  if (++counter_[0] == 0) ++counter_[1];
}

std::uint32_t RandomStream::next_u32() {
  if (used_ == 4) refill();
  return block_[used_++];
}

std::uint64_t RandomStream::next_u64() {
  const std::uint64_t low = next_u32();
  return low | (std::uint64_t(next_u32()) << 32);
}

double RandomStream::uniform() { return double(next_u64() >> 11) * 0x1.0p-53; }

std::uint64_t RandomStream::below(std::uint64_t bound) {
  // Multiply-shift with rejection of the short first interval (Lemire 2019).
  while (true) {
    const unsigned __int128 product = static_cast<unsigned __int128>(next_u64()) * bound;
    if (std::uint64_t(product) >= -bound % bound) return std::uint64_t(product >> 64);
  }
}

double RandomStream::normal() {
  if (has_spare_) {
    has_spare_ = false;
    return spare_;
  }
  // Box-Muller; 1 - u keeps the logarithm finite.
  const double radius = std::sqrt(-2.0 * std::log(1.0 - uniform()));
  const double angle = 2.0 * std::numbers::pi * uniform();
  spare_ = radius * std::sin(angle);
  has_spare_ = true;
  return radius * std::cos(angle);
}

}  // namespace lmhead
