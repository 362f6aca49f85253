// SHA-256, which files of other programs are known by.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>

namespace lmhead {

/// SHA-256 (FIPS 180-4), fed piece by piece: about 1.2 GB/s with the instructions that processors have for it, 0.2 GB/s
/// without. For files of our own there is ContentHash, which is ten times as fast.
class Sha256 {
 public:
  /// `plain`: without such instructions, wherever they are.
  explicit Sha256(bool plain = false);
  void update(const void* data, std::size_t size);
  /// Of everything so far: 64 hexadecimal digits. More may follow.
  std::string hex() const;

  static constexpr std::size_t kBlock = 64;  // bytes
  using State = std::array<std::uint32_t, 8>;

 private:
  void (*compress_)(State& state, const unsigned char* blocks, std::size_t count);
  State state_;
  std::array<unsigned char, kBlock> rest_{};  // what does not fill a block yet
  std::uint64_t size_ = 0;
};

}  // namespace lmhead
