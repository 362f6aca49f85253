#include "lmhead/study/study_shard.h"

#include <charconv>

#include "lmhead/base/error.h"

namespace lmhead {

bool StudyShard::owns(const RunIdentity& identity) const {
  std::uint64_t number = 0;
  for (const char digit : identity.configuration) number = number * 31 + static_cast<unsigned char>(digit);
  return std::int64_t(number % std::uint64_t(count)) == index - 1;
}

StudyShard parse_study_shard(const std::string& text) {
  StudyShard shard;
  const char* end = text.data() + text.size();
  const auto [slash, wrong] = std::from_chars(text.data(), end, shard.index);
  if (wrong == std::errc() && slash != end && *slash == '/') {
    const auto [rest, refused] = std::from_chars(slash + 1, end, shard.count);
    if (refused == std::errc() && rest == end && shard.index >= 1 && shard.index <= shard.count) return shard;
  }
  fail("study", "--shard must be i/n with 1 <= i <= n, got ", text);
}

}  // namespace lmhead
