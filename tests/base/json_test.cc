#include "lmhead/base/json.h"

#include <gtest/gtest.h>

#include <chrono>
#include <nlohmann/json.hpp>

#include "tests/data/data_fixtures.h"

namespace lmhead {
namespace {

std::string nested(std::size_t depth, const std::string& open = "[", const std::string& close = "]") {
  std::string text;
  for (std::size_t level = 0; level < depth; ++level) text += open;
  text += "0";
  for (std::size_t level = 0; level < depth; ++level) text += close;
  return text;
}

TEST(Json, IsReadToADepthThatFunctionsCanFollow) {
  EXPECT_EQ(parse_json(nested(100), "file").dump(), nested(100));
  EXPECT_EQ(parse_foreign_json(nested(100, "{\"a\":", "}"), "file").dump(), nested(100, "{\"a\":", "}"));
  for (const std::size_t depth : {std::size_t(101), std::size_t(100000), std::size_t(10000000)}) {
    EXPECT_ERROR(parse_json(nested(depth), "deep.json"), "[deep.json] must be nested at most 100 deep, got more");
    EXPECT_ERROR(parse_foreign_json(nested(depth, "{\"a\":", "}"), "deep.json"), "must be nested at most 100 deep");
    EXPECT_FALSE(try_parse_json(nested(depth)));
  }
  EXPECT_ERROR(parse_json(std::string(1 << 20, '['), "open.json"), "must be nested at most 100 deep");
}

TEST(Json, WhatIsNoJsonSaysWhereAndWhy) {
  EXPECT_ERROR(parse_json("", "f"), "[f] must be valid JSON, got an error at byte 1");
  EXPECT_ERROR(parse_json("{\"a\": tru}", "f"), "[f] must be valid JSON, got an error at byte 10");
  EXPECT_ERROR(parse_json("[\"\xff\"]", "f"), "[f] must be UTF-8, got a malformed sequence at byte 2");
  EXPECT_ERROR(parse_json("[1e999]", "f"), "[f] must hold numbers that float64 can, got one that it cannot");
  EXPECT_ERROR(parse_foreign_json("[-1e999]", "f"), "must hold numbers that float64 can");
}

TEST(Json, AKeyOfOursStandsOnceAndOfOthersTheLastCounts) {
  EXPECT_ERROR(parse_json(R"({"a":{"b":1,"c":2,"b":3}})", "f"), "must name a key of an object once, got \"b\" twice");
  EXPECT_ERROR(parse_json(R"({"\u001b":1,"\u001b":1})", "f"), "got \"\\x1b\" twice");
  EXPECT_EQ(parse_json(R"([{"a":1},{"a":2,"b":{"a":3}}])", "f").size(), 2);
  EXPECT_EQ(parse_foreign_json(R"({"a":1,"a":2})", "f")["a"], 2);
}

TEST(Json, ManyKeysTakeNoTimeThatGrowsWithTheirSquare) {
  std::string text = "{";
  for (int key = 0; key < 300000; ++key) text += (key > 0 ? ",\"" : "\"") + std::to_string(key) + "\":0";
  text += "}";
  const auto start = std::chrono::steady_clock::now();
  EXPECT_ERROR(parse_json(text, "f"), "must have at most 10000 keys in an object, got more");
  EXPECT_EQ(parse_foreign_json(text, "f").size(), 300000);
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(20));
}

TEST(Json, OfAFileIsReadUpToASize) {
  const ScratchFolder folder;
  write_text(folder / "f.json", "{\"a\": 1}");
  EXPECT_EQ(read_json(folder / "f.json")["a"], 1);
  EXPECT_ERROR(read_json(folder / "f.json", 7), "f.json must have at most 7 bytes, got 8");
}

}  // namespace
}  // namespace lmhead
