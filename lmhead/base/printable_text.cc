#include "lmhead/base/printable_text.h"

#include <algorithm>
#include <cstdint>
#include <utility>

namespace lmhead {
namespace {

/// Whether a terminal would obey `sequence`, which is UTF-8, rather than show it.
bool is_control(std::string_view sequence) {
  const auto byte = [&](std::size_t index) { return std::uint8_t(sequence[index]); };
  if (sequence.size() == 1) return byte(0) < 0x20 || byte(0) == 0x7F;
  if (sequence.size() == 2) return byte(0) == 0xC2 && byte(1) < 0xA0;  // C1
  if (sequence.size() != 3 || byte(0) != 0xE2) return false;
  // U+2028 to U+202E: line and paragraph ends, embeddings and overrides of direction; U+2066 to U+2069: isolates.
  return (byte(1) == 0x80 && byte(2) >= 0xA8 && byte(2) <= 0xAE) ||
         (byte(1) == 0x81 && byte(2) >= 0xA6 && byte(2) <= 0xA9);
}

/// Appends the character at the start of `text`, and returns how many bytes it took.
std::size_t append_printable(std::string& to, std::string_view text) {
  constexpr const char* kHex = "0123456789abcdef";
  const std::size_t length = utf8_length(text);
  if (length > 0 && !is_control(text.substr(0, length))) {
    to += text.substr(0, length);
    return length;
  }
  for (const char character : text.substr(0, length > 0 ? length : 1)) {
    const auto byte = std::uint8_t(character);
    to.append("\\x").append(1, kHex[byte >> 4]).append(1, kHex[byte & 15]);
  }
  return length > 0 ? length : 1;
}

/// Whether `text` may be the beginning of a character whose rest is to come.
bool is_cut(std::string_view text) {
  const auto first = std::uint8_t(text[0]);
  const std::size_t length = first < 0xC2 ? 1 : first < 0xE0 ? 2 : first < 0xF0 ? 3 : first < 0xF5 ? 4 : 1;
  return text.size() < length &&
         std::all_of(
             text.begin() + 1, text.end(), [](char character) { return (std::uint8_t(character) & 0xC0) == 0x80; });
}

}  // namespace

std::size_t utf8_length(std::string_view text) {
  const auto byte = [&](std::size_t index) {
    return index < text.size() ? std::uint8_t(text[index]) : std::uint8_t(0);
  };
  const auto follows = [&](std::size_t index) { return (byte(index) & 0xC0) == 0x80; };
  const std::uint8_t first = byte(0), second = byte(1);
  if (text.empty()) return 0;
  if (first < 0x80) return 1;
  if (first >= 0xC2 && first <= 0xDF) return follows(1) ? 2 : 0;
  if (first >= 0xE0 && first <= 0xEF) {
    const bool overlong = first == 0xE0 && second < 0xA0, surrogate = first == 0xED && second > 0x9F;
    return follows(1) && follows(2) && !overlong && !surrogate ? 3 : 0;
  }
  if (first >= 0xF0 && first <= 0xF4) {
    const bool overlong = first == 0xF0 && second < 0x90, beyond = first == 0xF4 && second > 0x8F;
    return follows(1) && follows(2) && follows(3) && !overlong && !beyond ? 4 : 0;
  }
  return 0;
}

std::size_t first_malformed_byte(std::string_view text) {
  std::size_t position = 0;
  while (position < text.size()) {
    const std::size_t length = utf8_length(text.substr(position));
    if (length == 0) return position;
    position += length;
  }
  return position;
}

std::string printable_text(std::string_view text) {
  std::string printable;
  for (std::size_t position = 0; position < text.size();)
    position += append_printable(printable, text.substr(position));
  return printable;
}

std::string PrintableStream::add(std::string_view piece) {
  held_ += piece;
  const std::string_view text = held_;
  std::string printable;
  std::size_t position = 0;
  while (position < text.size() && !is_cut(text.substr(position))) {
    const bool stays = text[position] == '\n' || text[position] == '\t';
    if (stays) printable += text[position++];
    else position += append_printable(printable, text.substr(position));
  }
  held_.erase(0, position);
  return printable;
}

std::string PrintableStream::finish() { return printable_text(std::exchange(held_, {})); }

std::string quote_for_message(std::string_view text) {
  constexpr std::size_t kLongest = 80;
  std::string quoted = "\"";
  for (std::size_t position = 0; position < text.size();) {
    if (position >= kLongest) return quoted + "\"...";
    position += append_printable(quoted, text.substr(position));
  }
  return quoted + "\"";
}

}  // namespace lmhead
