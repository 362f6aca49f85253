// A strict JSON reader for headers that an enemy may have written: no torch, no unbounded recursion, no
// guessing.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>

namespace lmhead {

/// Reads a JSON text front to back; the caller says what must come next, so nothing unexpected is ever
/// stored.
///
/// Strict RFC 8259: valid UTF-8 without a byte order mark, no raw control characters in strings, no lone
/// surrogates, no leading zeros, no trailing commas. Errors read `[safetensors] FILE: WHAT must be …, got …
/// at byte …`.
class SafetensorsJsonReader {
 public:
  /// Checks that `text`, which must outlive the reader, is UTF-8; `file` opens every message.
  SafetensorsJsonReader(std::string_view text, std::string_view file);

  /// Reads an object; `member` is called after each key and must read the value. Keys may repeat: the caller
  /// decides.
  void read_object(std::string_view what, const std::function<void(std::string key)>& member);
  /// Reads an array; `item` must read one value.
  void read_array(std::string_view what, const std::function<void()>& item);
  std::string read_string(std::string_view what);
  /// Reads an integer in [0, 2^64) written as digits alone: no sign, fraction or exponent.
  std::uint64_t read_integer(std::string_view what);
  /// Reads any value and forgets it; nesting beyond 32 is an error.
  void skip_value(std::string_view what) { skip_value(what, 32); }
  /// Only whitespace may be left.
  void read_end();

 private:
  [[noreturn]] void fail_here(std::string_view what, std::string_view must) const;
  void check_utf8() const;
  void skip_whitespace();
  char peek() const { return position_ < text_.size() ? text_[position_] : '\0'; }
  bool take(char wanted);
  std::uint32_t read_four_digits();
  std::uint32_t read_escape();
  void skip_number(std::string_view what);
  void skip_value(std::string_view what, int depth_left);

  std::string_view text_, file_;
  std::size_t position_ = 0;
};

}  // namespace lmhead
