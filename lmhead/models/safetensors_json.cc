#include "lmhead/models/safetensors_json.h"

#include <limits>

#include "lmhead/base/error.h"
#include "lmhead/base/printable_text.h"

namespace lmhead {
namespace {

bool is_digit(char character) { return character >= '0' && character <= '9'; }

void append_utf8(std::string& text, std::uint32_t code) {
  if (code < 0x80) {
    text += char(code);
    return;
  }
  if (code < 0x800) {
    text += char(0xC0 | code >> 6);
  } else {
    if (code < 0x10000) {
      text += char(0xE0 | code >> 12);
    } else {
      text += char(0xF0 | code >> 18);
      text += char(0x80 | (code >> 12 & 0x3F));
    }
    text += char(0x80 | (code >> 6 & 0x3F));
  }
  text += char(0x80 | (code & 0x3F));
}

}  // namespace

SafetensorsJsonReader::SafetensorsJsonReader(std::string_view text, std::string_view file) : text_(text), file_(file) {
  check_utf8();
}

void SafetensorsJsonReader::fail_here(std::string_view what, std::string_view must) const {
  const std::string got =
      position_ < text_.size() ? quote_for_message(text_.substr(position_, 12)) : "the end of the text";
  fail("safetensors", file_, ": ", what, " must ", must, ", got ", got, " at byte ", position_);
}

void SafetensorsJsonReader::check_utf8() const {
  const std::size_t malformed = first_malformed_byte(text_);
  require(malformed == text_.size(), "safetensors", file_,
          ": the JSON text must be UTF-8, got a malformed sequence at byte ", malformed);
}

void SafetensorsJsonReader::skip_whitespace() {
  while (peek() == ' ' || peek() == '\n' || peek() == '\r' || peek() == '\t') ++position_;
}

bool SafetensorsJsonReader::take(char wanted) {
  skip_whitespace();
  if (position_ >= text_.size() || text_[position_] != wanted) return false;
  ++position_;
  return true;
}

void SafetensorsJsonReader::read_object(std::string_view what, const std::function<void(std::string key)>& member) {
  if (!take('{')) fail_here(what, "be an object");
  if (take('}')) return;
  do {
    std::string key = read_string("a key");
    if (!take(':')) fail_here("a key", "be followed by a colon");
    member(std::move(key));
  } while (take(','));
  if (!take('}')) fail_here(what, "go on with a comma or a closing brace");
}

void SafetensorsJsonReader::read_array(std::string_view what, const std::function<void()>& item) {
  if (!take('[')) fail_here(what, "be an array");
  if (take(']')) return;
  do item();
  while (take(','));
  if (!take(']')) fail_here(what, "go on with a comma or a closing bracket");
}

std::uint32_t SafetensorsJsonReader::read_four_digits() {
  std::uint32_t code = 0;
  for (int digit = 0; digit < 4; ++digit, ++position_) {
    const char character = peek(), lower = char(character | 0x20);
    if (is_digit(character)) {
      code = code * 16 + std::uint32_t(character - '0');
    } else if (lower >= 'a' && lower <= 'f') {
      code = code * 16 + std::uint32_t(lower - 'a' + 10);
    } else {
      fail_here("a \\u escape", "have four hexadecimal digits");
    }
  }
  return code;
}

/// Reads what follows a backslash.
std::uint32_t SafetensorsJsonReader::read_escape() {
  const char kind = peek();
  constexpr std::string_view kKinds = "\"\\/bfnrt", kMeanings = "\"\\/\b\f\n\r\t";
  if (const std::size_t index = kKinds.find(kind); kind != '\0' && index != kKinds.npos) {
    ++position_;
    return std::uint32_t(kMeanings[index]);
  }
  if (kind != 'u') fail_here("an escape", "be one of \\\" \\\\ \\/ \\b \\f \\n \\r \\t \\u");
  ++position_;
  const std::uint32_t high = read_four_digits();
  if (high < 0xD800 || high > 0xDFFF) return high;
  constexpr std::string_view kLone = "come as a high half and then a low half";
  if (high > 0xDBFF || text_.substr(position_, 2) != "\\u") fail_here("a surrogate", kLone);
  position_ += 2;
  const std::uint32_t low = read_four_digits();
  if (low < 0xDC00 || low > 0xDFFF) fail_here("a surrogate", kLone);
  return 0x10000 + ((high - 0xD800) << 10) + (low - 0xDC00);
}

std::string SafetensorsJsonReader::read_string(std::string_view what) {
  if (!take('"')) fail_here(what, "be a string");
  std::string value;
  while (true) {
    const std::size_t start = position_;
    while (position_ < text_.size() && std::uint8_t(text_[position_]) >= 0x20 && text_[position_] != '"' &&
           text_[position_] != '\\') {
      ++position_;
    }
    value += text_.substr(start, position_ - start);
    if (position_ >= text_.size()) fail_here(what, "end with a quote");
    if (std::uint8_t(text_[position_]) < 0x20) fail_here(what, "have its control characters escaped");
    if (text_[position_++] == '"') return value;
    append_utf8(value, read_escape());
  }
}

std::uint64_t SafetensorsJsonReader::read_integer(std::string_view what) {
  skip_whitespace();
  const std::size_t start = position_;
  const auto refuse = [&] {
    position_ = start;
    fail_here(what, "be a whole number below 2^64, written in digits alone");
  };
  std::uint64_t value = 0;
  for (; is_digit(peek()); ++position_) {
    const auto digit = std::uint64_t(peek() - '0');
    if (value > (std::numeric_limits<std::uint64_t>::max() - digit) / 10) refuse();
    value = value * 10 + digit;
  }
  const std::size_t length = position_ - start;
  if (length == 0 || (length > 1 && text_[start] == '0')) refuse();
  if (peek() == '.' || peek() == 'e' || peek() == 'E') refuse();
  return value;
}

void SafetensorsJsonReader::skip_number(std::string_view what) {
  const auto digits = [&] {
    if (!is_digit(peek())) fail_here(what, "be a JSON value");
    while (is_digit(peek())) ++position_;
  };
  if (peek() == '-') ++position_;
  if (peek() == '0') {
    ++position_;
  } else {
    digits();
  }
  if (peek() == '.') {
    ++position_;
    digits();
  }
  if (peek() == 'e' || peek() == 'E') {
    ++position_;
    if (peek() == '+' || peek() == '-') ++position_;
    digits();
  }
}

void SafetensorsJsonReader::skip_value(std::string_view what, int depth_left) {
  skip_whitespace();
  if (depth_left == 0) fail_here(what, "be nested at most 32 deep");
  if (peek() == '{') return read_object(what, [&](std::string) { skip_value(what, depth_left - 1); });
  if (peek() == '[') return read_array(what, [&] { skip_value(what, depth_left - 1); });
  if (peek() == '"') {
    read_string(what);
    return;
  }
  for (const std::string_view word : {"true", "false", "null"}) {
    if (text_.substr(position_, word.size()) == word) {
      position_ += word.size();
      return;
    }
  }
  skip_number(what);
}

void SafetensorsJsonReader::read_end() {
  skip_whitespace();
  if (position_ < text_.size()) fail_here("the JSON text", "end after its object");
}

}  // namespace lmhead
