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

TEST(PrintableStream, SpellsOutWhatATerminalObeysWhereverThePiecesEnd) {
  const std::string text =
      "one\n\ttwo\r\x1b]0;owned\x07 sch\u00f6n \u6a21\U0001f600 \u009b31m \u202e \xff \xe6\xa8. \xf0\x9f";
  const std::string expected =
      "one\n\ttwo\\x0d\\x1b]0;owned\\x07 sch\u00f6n \u6a21\U0001f600 \\xc2\\x9b31m \\xe2\\x80\\xae \\xff "
      "\\xe6\\xa8. \\xf0\\x9f";
  for (std::size_t piece = 1; piece <= text.size(); ++piece) {
    PrintableStream stream;
    std::string printed;
    for (std::size_t begin = 0; begin < text.size(); begin += piece) printed += stream.add(text.substr(begin, piece));
    printed += stream.finish();
    EXPECT_EQ(printed, expected) << piece;
    EXPECT_EQ(stream.finish(), "");
  }
}

TEST(PrintableStream, HoldsNothingBackButAHalfCharacter) {
  PrintableStream stream;
  EXPECT_EQ(stream.add("a"), "a");
  EXPECT_EQ(stream.add("\xc3"), "");
  EXPECT_EQ(stream.add("\xb6"), "\u00f6");
  EXPECT_EQ(stream.add("\xc3"), "");
  EXPECT_EQ(stream.add("b"),
            "\\xc3"
            "b");
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
