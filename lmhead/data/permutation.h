// A pseudo-random order of any number of things, computed item by item without storing it.
#pragma once

#include <array>
#include <cstdint>
#include <string_view>

namespace lmhead {

/// A bijection of {0, ..., size - 1} chosen by seed, name and index: a balanced Feistel network on the next
/// power of four, walked until it lands inside (Black & Rogaway 2002). Memory: eight keys; time: a few walks
/// for any size.
class KeyedPermutation {
 public:
  KeyedPermutation(std::uint64_t seed, std::string_view name, std::uint64_t index, std::uint64_t size);
  /// Where `position` < size goes.
  std::uint64_t operator()(std::uint64_t position) const;
  std::uint64_t size() const { return size_; }

 private:
  std::uint64_t size_;
  unsigned half_bits_;
  std::array<std::uint64_t, 8> keys_;
};

}  // namespace lmhead
