// Text of strangers (names of files, models, tensors, what a file holds) that is fit for a terminal and a message.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace lmhead {

/// Length of the UTF-8 sequence at the start of `text`; 0 where there is none (overlong, surrogate, beyond U+10FFFF).
std::size_t utf8_length(std::string_view text);

/// Where the first byte is that belongs to no UTF-8 sequence; the size of `text` where all do.
std::size_t first_malformed_byte(std::string_view text);

/// `text` with everything that a terminal would obey, line ends among it, written as `\x1b`: control characters, marks
/// that turn the direction of writing, and bytes that are no UTF-8.
std::string printable_text(std::string_view text);

/// The same of a text that comes in pieces and has lines: line ends and tabs stay.
class PrintableStream {
 public:
  /// What is certain with this piece; a character that its end cuts waits for the rest.
  std::string add(std::string_view piece);
  /// What is left at the end.
  std::string finish();

 private:
  std::string held_;
};

/// `printable_text` in quotes, cut after 80 bytes.
std::string quote_for_message(std::string_view text);

}  // namespace lmhead
