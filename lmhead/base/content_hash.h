// A hash of content that finds accidents, not enemies.
#pragma once

#include <cstddef>
#include <filesystem>
#include <memory>
#include <string>

namespace lmhead {

/// XXH3 in 128 bits (xxHash), fed piece by piece. In hexadecimal it reads as the program `xxh128sum` prints it.
class ContentHash {
 public:
  ContentHash();
  ~ContentHash();
  ContentHash(ContentHash&&) noexcept;
  ContentHash& operator=(ContentHash&&) noexcept;
  void update(const void* data, std::size_t size);
  /// Of everything so far: 32 digits. More may follow.
  std::string hex() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

/// The hash of a whole file. Throws where it cannot be read.
std::string hash_file(const std::filesystem::path& path);

}  // namespace lmhead
