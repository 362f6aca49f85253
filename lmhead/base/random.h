// Random numbers from named, seeded streams: adding a consumer never changes what another one draws.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>

namespace lmhead {

/// A counter-based generator (Philox 4x32-10; Salmon et al. 2011). The same seed, name and index give the same draws
/// on every machine, and two names give unrelated draws.
class RandomStream {
 public:
  RandomStream(std::uint64_t seed, std::string_view name, std::uint64_t index = 0);

  std::uint32_t next_u32();
  std::uint64_t next_u64();
  /// Uniform on [0, 1) with 53 random bits.
  double uniform();
  /// Uniform on {0, ..., bound - 1}, without bias. `bound` must be positive.
  std::uint64_t below(std::uint64_t bound);
  /// Standard normal.
  double normal();

 private:
  void refill();
  std::array<std::uint32_t, 2> key_;
  std::array<std::uint32_t, 4> counter_;
  std::array<std::uint32_t, 4> block_{};
  unsigned used_ = 4;
  bool has_spare_ = false;
  double spare_ = 0;
};

/// A 64-bit hash of text (FNV-1a, then mixed); for names and content keys, not for security.
std::uint64_t hash_text(std::string_view text);
/// The same as 16 hexadecimal digits.
std::string hash_text_in_hex(std::string_view text);

}  // namespace lmhead
