#include "lmhead/base/printable_text.h"

#include <gtest/gtest.h>

namespace lmhead {
namespace {

TEST(PrintableText, LeavesNothingThatATerminalObeys) {
  EXPECT_EQ(printable_text("plain, schön, 模型 😀"), "plain, schön, 模型 😀");
  EXPECT_EQ(printable_text("a\x1b[31mb"), "a\\x1b[31mb");
  EXPECT_EQ(printable_text("two\nlines\r\t\x7f"), "two\\x0alines\\x0d\\x09\\x7f");
  EXPECT_EQ(printable_text(std::string_view("nul\0", 4)), "nul\\x00");
  EXPECT_EQ(printable_text("\xc2\x9b"
                           "31m"),
            "\\xc2\\x9b31m");                                                           // one byte CSI
  EXPECT_EQ(printable_text("\u202eexe.\u2069"), "\\xe2\\x80\\xaeexe.\\xe2\\x81\\xa9");  // turned around
  EXPECT_EQ(printable_text("\xff\xc0\xaf\xe4\xb8"), "\\xff\\xc0\\xaf\\xe4\\xb8");
}

TEST(PrintableText, QuotesAreCutBetweenCharacters) {
  EXPECT_EQ(quote_for_message("a\n"), "\"a\\x0a\"");
  const std::string long_text = std::string(79, 'x') + "öy";
  EXPECT_EQ(quote_for_message(long_text), "\"" + std::string(79, 'x') + "ö\"...");
}

TEST(FirstMalformedByte, IsTheSizeOfUtf8) {
  EXPECT_EQ(first_malformed_byte(""), 0);
  EXPECT_EQ(first_malformed_byte("schön"), 6);
  EXPECT_EQ(first_malformed_byte("sch\xf6n"), 3);
  EXPECT_EQ(first_malformed_byte("\xed\xa0\x80"), 0);  // a surrogate
}

}  // namespace
}  // namespace lmhead
