#include "lmhead/models/safetensors_header.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "lmhead/base/error.h"
#include "lmhead/base/files.h"
#include "lmhead/models/safetensors_index.h"

namespace lmhead {
namespace {

SafetensorsHeader header_of(const std::string& file) {
  const auto read = [&](std::uint64_t begin, void* bytes, std::size_t size) {
    ASSERT_LE(begin + size, file.size());
    std::copy_n(file.data() + begin, size, static_cast<char*>(bytes));
  };
  return read_safetensors_header(file.size(), read, "F");
}

/// A whole file: the length of `header`, `header`, and `data_bytes` bytes of data.
std::string file_of(const std::string& header, std::size_t data_bytes = 0) {
  std::string file;
  for (int byte = 0; byte < 8; ++byte) file += char(header.size() >> (8 * byte) & 0xFF);
  return file + header + std::string(data_bytes, '\x7F');
}

std::string verdict_on_file(const std::string& file) {
  try {
    header_of(file);
  } catch (const Error& error) {
    return error.what();
  }
  return "accepted";
}

std::string verdict(const std::string& header, std::size_t data_bytes = 0) {
  return verdict_on_file(file_of(header, data_bytes));
}

/// A header with these members.
std::string object(const std::string& members) { return std::string("{").append(members).append("}"); }

/// A tensor's member in a header.
std::string tensor(const std::string& name, const std::string& shape, const std::string& offsets,
                   const std::string& dtype = "U8") {
  return "\"" + name + "\":{\"dtype\":\"" + dtype + "\",\"shape\":[" + shape + "],\"data_offsets\":[" + offsets + "]}";
}

#define EXPECT_REFUSED(part, ...) EXPECT_PRED_FORMAT2(testing::IsSubstring, part, verdict(__VA_ARGS__))

TEST(SafetensorsHeader, EverySharedCaseGetsItsVerdict) {
  const std::filesystem::path folder = std::filesystem::path(LMHEAD_SHARED_DATA) / "safetensors-cases";
  if (!std::filesystem::exists(folder)) GTEST_SKIP() << "no shared data";
  const auto list = nlohmann::json::parse(read_file(folder / "cases.json"));
  for (const auto& item : list["cases"]) {
    const std::string file = item["file"], recommended = item["recommended"];
    const std::string got = verdict_on_file(read_file(folder / file));
    if (recommended == "accept-or-unsupported" || recommended == "accept-or-reject") continue;
    EXPECT_TRUE(got == "accepted" || got.starts_with("[safetensors] F: ")) << file << ": " << got;
    EXPECT_EQ(got == "accepted", recommended == "accept") << file << ": " << got;
  }
  for (const auto& [name, bits] : list["dtypes_bits"].items()) {
    const auto types = safetensors_types();
    const auto known = std::find_if(types.begin(), types.end(), [&](const auto& type) { return type.name == name; });
    ASSERT_NE(known, types.end()) << name;
    EXPECT_EQ(known->bits, bits.get<unsigned>()) << name;
  }
}

TEST(SafetensorsHeader, WhatIsReadIsWhatStandsThere) {
  const std::string header = "{\"__metadata__\":{\"a\":\"line\\nbreak\"}," + tensor("b", "2", "12,20", "F32") + "," +
                             tensor("\\u00e9\\ud83d\\ude00", "3,1,1", "0,12", "I32") + "}  \n";
  const SafetensorsHeader read = header_of(file_of(header, 20));
  EXPECT_EQ(read.data_start, 8 + header.size());
  EXPECT_EQ(read.metadata.at("a"), "line\nbreak");
  ASSERT_EQ(read.entries.size(), 2u);
  EXPECT_EQ(read.entries[0].name, "\u00e9\U0001F600");
  EXPECT_EQ(read.entries[0].shape, (std::vector<std::int64_t>{3, 1, 1}));
  ASSERT_NE(read.find("b"), nullptr);
  EXPECT_EQ(read.find("b")->dtype, "F32");
  EXPECT_EQ(read.find("b")->begin, 12u);
  EXPECT_EQ(read.find("b")->bytes(), 8u);
  EXPECT_EQ(read.find("c"), nullptr);
}

TEST(SafetensorsHeader, TheLengthFieldIsCheckedBeforeAnythingIsRead) {
  EXPECT_EQ(verdict_on_file(""), "[safetensors] F: the file must hold at least 8 bytes, got 0");
  EXPECT_EQ(verdict_on_file(std::string(7, '\0')), "[safetensors] F: the file must hold at least 8 bytes, got 7");
  EXPECT_EQ(verdict_on_file(std::string(8, '\xFF') + "{}"),
            "[safetensors] F: the header must have at most 100000000 bytes, got a length of 18446744073709551615");
  EXPECT_EQ(verdict_on_file(std::string("\x03\0\0\0\0\0\0\0{}", 10)),
            "[safetensors] F: the header must lie inside the file, got a length of 3 with 2 bytes left");
  EXPECT_REFUSED("the header must be an object, got the end", "");
}

TEST(SafetensorsHeader, TensorsMustCoverTheDataExactly) {
  const std::string a = tensor("a", "4", "0,4");
  EXPECT_EQ(verdict(object(a + "," + tensor("b", "2", "4,6")), 6), "accepted");
  EXPECT_EQ(verdict(object(tensor("b", "2", "4,6") + "," + a), 6), "accepted");
  EXPECT_EQ(verdict(object(a + "," + tensor("b", "0", "4,4") + "," + tensor("c", "9,0", "0,0")), 4), "accepted");
  EXPECT_EQ(verdict(object(a + "," + tensor("b", "3", "3,6")), 6),
            "[safetensors] F: tensor \"b\" must begin at byte 4 of the data, where the one before it ends, "
            "got 3 (overlap)");
  EXPECT_EQ(verdict(object(a + "," + tensor("b", "1", "5,6")), 6),
            "[safetensors] F: tensor \"b\" must begin at byte 4 of the data, where the one before it ends, "
            "got 5 (hole)");
  EXPECT_REFUSED("(overlap)", object(a + "," + tensor("b", "4", "0,4")), 4);
  EXPECT_REFUSED("(overlap)", object(a + "," + tensor("b", "0", "2,2")), 4);
  EXPECT_REFUSED("(hole)", object(tensor("a", "4", "1,5")), 5);
  EXPECT_REFUSED("(hole)", object(a + "," + tensor("b", "0", "9,9")), 4);
  EXPECT_REFUSED("must lie inside the 3 bytes of data, got an end at 4", object(a), 3);
  EXPECT_REFUSED("must end with its last tensor, got 2 bytes more", object(a), 6);
  EXPECT_REFUSED("must end with its last tensor, got 1 bytes more", "{}", 1);
  EXPECT_REFUSED("must not end before they begin, got 4 and 0", object(tensor("a", "4", "4,0")), 4);
}

TEST(SafetensorsHeader, SizesMustFitShapeAndType) {
  EXPECT_EQ(verdict(object(tensor("a", "", "0,8", "C64")), 8), "accepted");
  EXPECT_EQ(verdict(object(tensor("a", "4", "0,3", "F6_E2M3")), 3), "accepted");
  EXPECT_EQ(verdict(object(tensor("a", "2,2", "0,16")), 16),
            "[safetensors] F: tensor \"a\" must have the 4 bytes of its shape and dtype, got 16");
  EXPECT_REFUSED("must fill whole bytes, got 12 bits", object(tensor("a", "3", "0,2", "F4")), 2);
  EXPECT_REFUSED("fewer than 2^63 bits", object(tensor("a", "4294967296,4294967296", "0,0")));
  EXPECT_REFUSED("fewer than 2^63 bits", object(tensor("a", "4611686018427387904", "0,0", "F32")));
  EXPECT_REFUSED("fewer than 2^63 bits", object(tensor("a", "0,4294967296,4294967296", "0,0")));
  EXPECT_REFUSED("sizes below 2^63, got 9223372036854775808", object(tensor("a", "9223372036854775808", "0,0")));
  std::string ones = "1";
  for (int size = 0; size < 64; ++size) ones += ",1";
  EXPECT_REFUSED("at most 64 sizes", object(tensor("a", ones, "0,1")), 1);
}

TEST(SafetensorsHeader, OffsetsBeyondTheFileAreNoArithmetic) {
  EXPECT_REFUSED("must have the 4 bytes", object(tensor("a", "4", "0,9223372036854775812")), 4);
  EXPECT_REFUSED("(hole)", object(tensor("a", "4", "18446744073709551611,18446744073709551615")), 4);
  EXPECT_REFUSED("whole number below 2^64", object(tensor("a", "4", "0,18446744073709551616")), 4);
  EXPECT_REFUSED("whole number below 2^64", object(tensor("a", "4", "18446744073709551616,18446744073709551620")), 4);
}

TEST(SafetensorsHeader, NumbersAreDigitsAlone) {
  for (const char* number :
       {"4.0", "4e0", "0.4e1", "-4", "+4", "04", "\"4\"", "4L", "0x4", "true", "null", "NaN", ""}) {
    EXPECT_NE(verdict(object(tensor("a", number, "0,4")), 4), "accepted") << number;
    EXPECT_NE(verdict(object(tensor("a", "4", std::string("0,").append(number))), 4), "accepted") << number;
  }
  EXPECT_EQ(verdict(object(tensor("a", " 4 ", " 0 ,\t4")), 4), "accepted");
}

TEST(SafetensorsHeader, NoKeyComesTwice) {
  EXPECT_EQ(verdict(object(tensor("a", "1", "0,1") + "," + tensor("\\u0061", "1", "1,2")), 2),
            "[safetensors] F: the header must name tensor \"a\" once, got it twice");
  EXPECT_REFUSED("once, got it twice", object(tensor("a", "1", "0,1") + "," + tensor("a", "1", "0,1")), 1);
  EXPECT_REFUSED("one dtype, got two", R"({"a":{"dtype":"U8","dtype":"U8","shape":[1],"data_offsets":[0,1]}})", 1);
  EXPECT_REFUSED("one shape, got two", R"({"a":{"dtype":"U8","shape":[1],"sh\u0061pe":[],"data_offsets":[0,1]}})", 1);
  EXPECT_REFUSED("one __metadata__, got two", R"({"__metadata__":{},"__metadata__":{}})");
  EXPECT_REFUSED("__metadata__ must name \"k\" once", R"({"__metadata__":{"k":"1","k":"2"}})");
}

TEST(SafetensorsHeader, FieldsAreTheThreeOfTheFormat) {
  EXPECT_REFUSED("must have data_offsets, got none", R"({"a":{"dtype":"U8","shape":[1]}})", 1);
  EXPECT_REFUSED("must have a dtype, got none", R"({"a":{"shape":[1],"data_offsets":[0,1]}})", 1);
  EXPECT_REFUSED("data_offsets alone, got \"x\"", R"({"a":{"x":0,"dtype":"U8","shape":[1],"data_offsets":[0,1]}})", 1);
  EXPECT_REFUSED("must be two numbers, got 1", object(tensor("a", "1", "0")), 1);
  EXPECT_REFUSED("must be two numbers, got more", object(tensor("a", "1", "0,1,1")), 1);
  EXPECT_REFUSED("must be a known type, got \"u8\"", object(tensor("a", "1", "0,1", "u8")), 1);
  EXPECT_REFUSED("tensor \"a\" must be an object", R"({"a":[]})");
  EXPECT_REFUSED("a value in __metadata__ must be a string", R"({"__metadata__":{"k":1}})");
  EXPECT_REFUSED("__metadata__ must be an object", R"({"__metadata__":null})");
}

TEST(SafetensorsHeader, JsonIsStrict) {
  for (const char* header : {"[]", "{} {}", "{}x", "\xEF\xBB\xBF{}", "{,}", "{\"__metadata__\":{},}", "{'a':1}",
                             "{\"a\"}", "{\"__metadata__\":{\"a\":\"b\"}", "//\n{}", "{}\v", "nul", "\"a\""}) {
    EXPECT_NE(verdict(header), "accepted") << header;
  }
  EXPECT_NE(verdict(std::string("{}\0\0\0\0\0\0", 8)), "accepted");
  EXPECT_EQ(verdict(" \t\r\n{ } \t\r\n"), "accepted");
}

TEST(SafetensorsHeader, StringsAreCleanUnicode) {
  const auto with_value = [](const std::string& value) {
    return verdict("{\"__metadata__\":{\"k\":\"" + value + "\"}}");
  };
  EXPECT_EQ(with_value("\\\"\\\\\\/\\b\\f\\n\\r\\t\\u0000\\uD834\\uDD1E \xF4\x8F\xBF\xBF"), "accepted");
  for (const char* value : {"\\ud800",
                            "\\udc00",
                            "\\ud800\\ud800",
                            "\\ud800x",
                            "\\ud800\\n",
                            "\\u12g4",
                            "\\u12",
                            "\\x41",
                            "\\",
                            "\n",
                            "\t",
                            "\x1F",
                            "\xC0\x80",
                            "\xC1\xBF",
                            "\xE0\x80\x80",
                            "\xED\xA0\x80",
                            "\xF0\x80\x80\x80",
                            "\xF4\x90\x80\x80",
                            "\xF5\x80\x80\x80",
                            "\x80",
                            "\xE2\x82",
                            "\xFF"}) {
    EXPECT_NE(with_value(value), "accepted") << value;
  }
  EXPECT_NE(with_value(std::string("\0", 1)), "accepted");
}

TEST(SafetensorsHeader, ControlCharactersStayOutOfNamesAndMessages) {
  EXPECT_EQ(verdict(object(tensor("a\\u001b[31m", "1", "0,1")), 1),
            "[safetensors] F: tensor \"a\\x1b[31m\" must have a name without control characters, got some");
  EXPECT_REFUSED("without control characters", object(tensor("a\\u0000", "1", "0,1")), 1);
  EXPECT_REFUSED("without control characters", object(tensor("a\\u007f", "1", "0,1")), 1);
  const std::string long_name = verdict(object(tensor(std::string(100000, 'n'), "1", "0,2")), 2);
  EXPECT_LT(long_name.size(), 200u);
}

TEST(SafetensorsHeader, DeepNestingAndBombsEndQuickly) {
  EXPECT_NE(verdict(std::string(1'000'000, '[')), "accepted");
  EXPECT_NE(verdict("{\"a\":" + std::string(1'000'000, '{')), "accepted");
  EXPECT_NE(verdict("{\"__metadata__\":{\"a\":" + std::string(1'000'000, '[')), "accepted");
  std::string many;
  for (int index = 0; index < 20000; ++index) {
    many += tensor(std::string("t").append(std::to_string(index)), "0", "0,0").append(",");
  }
  EXPECT_EQ(verdict(object(many + tensor("last", "0", "0,0"))), "accepted");
  EXPECT_REFUSED("once, got it twice", object(many + tensor("t7", "0", "0,0")));
}

TEST(SafetensorsIndex, MapsNamesToFilesOfTheSameFolder) {
  const auto map = parse_safetensors_index(R"({"metadata":{"total_size":1e3,"x":[-0.5,true,null,{"y":"z"}]},)"
                                           R"("weight_map":{"a":"one.safetensors","b":"two.safetensors"}})",
                                           "I");
  EXPECT_EQ(map, (std::map<std::string, std::string>{{"a", "one.safetensors"}, {"b", "two.safetensors"}}));
}

TEST(SafetensorsIndex, HostileTextIsRefused) {
  const auto verdict = [](const std::string& text) -> std::string {
    try {
      parse_safetensors_index(text, "I");
    } catch (const Error& error) {
      return error.what();
    }
    return "accepted";
  };
  for (const char* file : {"../x.safetensors", "/x.safetensors", "a/x.safetensors", "a\\\\x.safetensors", "x.bin", "",
                           ".safetensors", "..safetensors", "x\\u0000.safetensors", "x.safetensors/"}) {
    EXPECT_PRED_FORMAT2(testing::IsSubstring, "must be the plain name",
                        verdict("{\"weight_map\":{\"a\":\"" + std::string(file) + "\"}}"));
  }
  EXPECT_PRED_FORMAT2(testing::IsSubstring, "once, got it twice",
                      verdict(R"({"weight_map":{"a":"x.safetensors","a":"y.safetensors"}})"));
  EXPECT_PRED_FORMAT2(testing::IsSubstring, "one weight_map, got two", verdict(R"({"weight_map":{},"weight_map":{}})"));
  EXPECT_PRED_FORMAT2(testing::IsSubstring, "nested at most 32 deep",
                      verdict("{\"metadata\":" + std::string(1'000'000, '[')));
  for (const char* text : {"", "[]", "{}", R"({"weight_map":[]})", R"({"weight_map":{"a":1}})", R"({"metadata":01})",
                           R"({"metadata":-})", R"({"metadata":1.})", R"({"metadata":tru})"}) {
    EXPECT_NE(verdict(text), "accepted") << text;
  }
}

}  // namespace
}  // namespace lmhead
