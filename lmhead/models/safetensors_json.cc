#include "lmhead/models/safetensors_json.h"

#include <limits>

#include "lmhead/base/error.h"

namespace lmhead {
namespace {

bool is_digit(char character) { return character >= '0' && character <= '9'; }

/// Length of the UTF-8 sequence at the start of `text`, 0 where it is none (overlong, surrogate, beyond
/// U+10FFFF).
std::size_t utf8_length(std::string_view text) {
  const auto byte = [&](std::size_t index) {
    return index < text.size() ? std::uint8_t(text[index]) : std::uint8_t(0);
  };
  const auto follows = [&](std::size_t index) { return (byte(index) & 0xC0) == 0x80; };
  const std::uint8_t first = byte(0), second = byte(1);
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

std::string quote_for_message(std::string_view text) {
  constexpr std::size_t kLongest = 80;
  const char* hex = "0123456789abcdef";
  std::string quoted = "\"";
  for (std::size_t position = 0; position < text.size();) {
    if (position >= kLongest) return quoted + "\"...";
    const auto byte = std::uint8_t(text[position]);
    const std::size_t length = utf8_length(text.substr(position));
    const bool is_c1_control = length == 2 && byte == 0xC2 && std::uint8_t(text[position + 1]) < 0xA0;
    if (length == 0 || byte < 0x20 || byte == 0x7F || is_c1_control) {  // a terminal would obey these
      quoted.append("\\x").append(1, hex[byte >> 4]).append(1, hex[byte & 15]);
      position += 1;
    } else {
      quoted += text.substr(position, length);
      position += length;
    }
  }
  return quoted + "\"";
}

SafetensorsJsonReader::SafetensorsJsonReader(std::string_view text, std::string_view file) : text_(text), file_(file) {
  check_utf8();
}

void SafetensorsJsonReader::fail_here(std::string_view what, std::string_view must) const {
  const std::string got =
      position_ < text_.size() ? quote_for_message(text_.substr(position_, 12)) : "the end of the text";
  fail("safetensors", file_, ": ", what, " must ", must, ", got ", got, " at byte ", position_);
}

void SafetensorsJsonReader::check_utf8() const {
  for (std::size_t position = 0; position < text_.size();) {
    const std::size_t length = utf8_length(text_.substr(position));
    require(length > 0, "safetensors", file_, ": the JSON text must be UTF-8, got a malformed sequence at byte ",
            position);
    position += length;
  }
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
