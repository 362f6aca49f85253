#include "lmhead/data/permutation.h"

#include <algorithm>
#include <bit>

#include "lmhead/base/error.h"
#include "lmhead/base/random.h"

namespace lmhead {
namespace {

/// Scrambles a half with a round's key: the finaliser of MurmurHash3.
std::uint64_t scramble(std::uint64_t value) {
  value = (value ^ (value >> 33)) * 0xff51afd7ed558ccdULL;
  value = (value ^ (value >> 33)) * 0xc4ceb9fe1a85ec53ULL;
  return value ^ (value >> 33);
}

}  // namespace

KeyedPermutation::KeyedPermutation(std::uint64_t seed, std::string_view name, std::uint64_t index, std::uint64_t size)
    : size_(size) {
  require(size >= 1 && size <= (std::uint64_t(1) << 62), "data", "a permutation must be of 1 to 2^62 things, got ",
          size);
  // At least 4 bits a half: a network on very few bits reaches only some of the orders.
  half_bits_ = std::max(4U, unsigned(std::bit_width(size - 1) + 1) / 2);
  RandomStream stream(seed, name, index);
  for (std::uint64_t& key : keys_) key = stream.next_u64();
}

std::uint64_t KeyedPermutation::operator()(std::uint64_t position) const {
  const std::uint64_t mask = (std::uint64_t(1) << half_bits_) - 1;
  do {
    std::uint64_t left = position >> half_bits_, right = position & mask;
    for (const std::uint64_t key : keys_) {
      const std::uint64_t next = left ^ (scramble(right ^ key) & mask);
      left = right;
      right = next;
    }
    position = (left << half_bits_) | right;
  } while (position >= size_);
  return position;
}

}  // namespace lmhead
