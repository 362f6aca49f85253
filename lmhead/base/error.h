// The one kind of error that the library throws on purpose.
#pragma once

#include <sstream>
#include <stdexcept>
#include <string>
#include <string_view>

namespace lmhead {

/// Something that the caller asked for cannot be done; the text reads `[who] what must hold, got what`.
class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// Throws an Error whose text is `[who] ` followed by the parts, written one after another.
template <class... Parts>
[[noreturn]] void fail(std::string_view who, const Parts&... parts) {
  std::ostringstream text;
  text << '[' << who << "] ";
  (text << ... << parts);
  throw Error(text.str());
}

/// Calls `fail` unless `holds`.
template <class... Parts>
void require(bool holds, std::string_view who, const Parts&... parts) {
  if (!holds) fail(who, parts...);
}

}  // namespace lmhead
