#include <ATen/ops/arange.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/full.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <limits>

#include "lmhead/base/error.h"
#include "lmhead/models/safetensors.h"
#include "lmhead/models/safetensors_folder.h"

namespace lmhead {
namespace {

namespace fs = std::filesystem;

/// A new folder that goes away with the test.
class SafetensorsTest : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = fs::temp_directory_path() / ("lmhead_safetensors_" + std::to_string(::getpid()));
    fs::remove_all(folder_);
    fs::create_directories(folder_);
  }
  void TearDown() override { fs::remove_all(folder_); }

  static std::string error_of(const std::function<void()>& action) {
    try {
      action();
    } catch (const Error& error) {
      return error.what();
    }
    return "no error";
  }

  fs::path folder_;
};
using SafetensorsFiles = SafetensorsTest;
using TensorFolders = SafetensorsTest;

#define EXPECT_ERROR(part, action) EXPECT_PRED_FORMAT2(testing::IsSubstring, part, error_of([&] { action; }))

/// The same type, shape and bytes: also where a number is not a number.
bool same_bytes(const at::Tensor& a, const at::Tensor& b) {
  return a.scalar_type() == b.scalar_type() && a.sizes() == b.sizes() &&
         (a.nbytes() == 0 || std::memcmp(a.const_data_ptr(), b.const_data_ptr(), a.nbytes()) == 0);
}

TEST_F(SafetensorsFiles, WrittenBytesAreTheFormat) {
  const std::vector<float> values = {1.0f, -2.0f};
  write_safetensors(folder_ / "x", {{"b", at::tensor({std::int64_t(7)}, at::kByte)}, {"a\"\u00e9", at::tensor(values)}},
                    {{"format", "pt"}});
  const std::string header =
      "{\"__metadata__\":{\"format\":\"pt\"},\"a\\\"\u00e9\":{\"dtype\":\"F32\",\"shape\":[2],\"data_"
      "offsets\":[0,8]},"
      "\"b\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[8,9]}}";
  const std::string padded = header + std::string((8 - header.size() % 8) % 8, ' ');
  const std::string expected = std::string(1, char(padded.size())) + std::string(7, '\0') + padded +
                               std::string("\0\0\x80\x3F\0\0\0\xC0\x07", 9);
  EXPECT_EQ(read_file(folder_ / "x"), expected);
}

TEST_F(SafetensorsFiles, EveryTypeComesBackBitForBit) {
  std::vector<std::pair<std::string, at::Tensor>> tensors;
  for (const auto type :
       {at::kBool, at::kByte, at::kChar, at::kShort, at::kUInt16, at::kHalf, at::kBFloat16, at::kInt, at::kUInt32,
        at::kFloat, at::kComplexFloat, at::kDouble, at::kLong, at::kUInt64, at::kFloat8_e5m2, at::kFloat8_e4m3fn}) {
    tensors.emplace_back(c10::toString(type), at::arange(6, at::kFloat).view({2, 3}).to(type));
  }
  tensors.emplace_back("scalar", at::full({}, std::numeric_limits<float>::quiet_NaN(), at::kFloat));
  tensors.emplace_back("infinite", at::full({1, 1}, -std::numeric_limits<double>::infinity(), at::kDouble));
  tensors.emplace_back("empty", at::zeros({0, 4}, at::kHalf));
  tensors.emplace_back("transposed", at::arange(6, at::kFloat).view({2, 3}).t());
  write_safetensors(folder_ / "x", tensors);
  const auto file = SafetensorsFile::open(folder_ / "x");
  EXPECT_EQ(file.names().size(), tensors.size());
  for (const auto& [name, tensor] : tensors) {
    EXPECT_TRUE(same_bytes(file.tensor(name), tensor.contiguous())) << name;
  }
}

TEST_F(SafetensorsFiles, AFileOutlivesItsName) {
  write_safetensors(folder_ / "x", {{"a", at::arange(1000, at::kFloat)}});
  const auto file = SafetensorsFile::open(folder_ / "x");
  write_safetensors(folder_ / "x", {{"a", at::zeros({1000})}});
  EXPECT_TRUE(same_bytes(file.tensor("a"), at::arange(1000, at::kFloat)));
}

// Bytes of a mapping would end the process with SIGBUS here.
TEST_F(SafetensorsFiles, AFileThatIsCutShortWhileItIsOpenIsAnErrorWhereItIsMissing) {
  write_safetensors(folder_ / "x", {{"a", at::arange(1000, at::kFloat)}, {"b", at::arange(9000, at::kFloat)}});
  const auto file = SafetensorsFile::open(folder_ / "x");
  fs::resize_file(folder_ / "x", fs::file_size(folder_ / "x") - 4);
  EXPECT_TRUE(same_bytes(file.tensor("a"), at::arange(1000, at::kFloat)));
  EXPECT_TRUE(same_bytes(file.rows("b", 0, 8999), at::arange(8999, at::kFloat)));
  EXPECT_ERROR("it was cut short since", file.tensor("b"));
  EXPECT_ERROR("it was cut short since", file.rows("b", 8999, 1));
  EXPECT_ERROR("it was cut short since", file.read_into("b", at::empty({9000}, at::kFloat)));
  EXPECT_ERROR("it was cut short since", file.read_into("b", at::empty({9000}, at::kDouble)));
}

TEST_F(SafetensorsFiles, UnalignedDataIsRead) {
  const std::string header = "{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}";
  ASSERT_NE(header.size() % 4, 0u);
  write_file_atomic(folder_ / "x", std::string(1, char(header.size())) + std::string(7, '\0') + header +
                                       std::string("\0\0\x80\x3F", 4));
  EXPECT_EQ(SafetensorsFile::open(folder_ / "x").tensor("a").item<float>(), 1.0f);
}

TEST_F(SafetensorsFiles, RowsAreThoseOfTheWhole) {
  const at::Tensor whole = at::arange(5 * 6, at::kFloat).view({5, 2, 3});
  write_safetensors(folder_ / "x", {{"a", whole}, {"none", at::zeros({4, 0})}, {"scalar", at::zeros({})}});
  const auto file = SafetensorsFile::open(folder_ / "x");
  for (const auto& [begin, count] : {std::pair(0, 5), {1, 3}, {4, 1}, {5, 0}, {2, 0}})
    EXPECT_TRUE(same_bytes(file.rows("a", begin, count), whole.narrow(0, begin, count))) << begin;
  EXPECT_EQ(file.rows("none", 1, 2).sizes(), at::IntArrayRef({2, 0}));
  EXPECT_ERROR("tensor \"a\" must have rows 4 to 6, got shape [5, 2, 3]", file.rows("a", 4, 2));
  EXPECT_ERROR("must have rows -1 to 0", file.rows("a", -1, 1));
  EXPECT_ERROR("must have rows 0 to 0, got shape []", file.rows("scalar", 0, 0));
}

TEST_F(SafetensorsFiles, WhatIsReadIntoATensorIsWhatCopyingGives) {
  // The sizes straddle a block of those that become another type.
  const std::int64_t block = (4 << 20) / 2;
  std::vector<std::pair<std::string, at::Tensor>> tensors;
  for (const std::int64_t size : {std::int64_t(0), std::int64_t(1), block - 1, block, block + 1})
    tensors.emplace_back(std::to_string(size), at::arange(size, at::kFloat).remainder(257).to(at::kBFloat16));
  write_safetensors(folder_ / "x", tensors);
  const auto file = SafetensorsFile::open(folder_ / "x");
  for (const auto& [name, tensor] : tensors) {
    for (const auto type : {at::kBFloat16, at::kFloat, at::kDouble}) {
      at::Tensor into = at::full(tensor.sizes(), -1, type);
      const auto version = into._version();
      file.read_into(name, into.detach());
      EXPECT_TRUE(into.numel() == 0 || into._version() > version) << name;
      EXPECT_TRUE(same_bytes(into, tensor.to(type))) << name;
    }
    const at::Tensor spread = at::full({tensor.size(0), 2}, -1, at::kFloat);
    file.read_into(name, spread.select(1, 1));
    EXPECT_TRUE(at::equal(spread.select(1, 1), tensor.to(at::kFloat))) << name;
    EXPECT_TRUE(spread.select(1, 0).eq(-1).all().item<bool>()) << name;
  }
  EXPECT_ERROR("must be read into one of shape [1], got [2]", file.read_into("1", at::zeros({2})));
}

TEST_F(SafetensorsFiles, WhatMemoryCannotHoldIsAnErrorBeforeItIsTaken) {
  const std::string header = "{\"a\":{\"dtype\":\"U8\",\"shape\":[8796093022208],\"data_offsets\":[0,8796093022208]}}";
  write_file_atomic(folder_ / "x", std::string(1, char(header.size())) + std::string(7, '\0') + header);
  fs::resize_file(folder_ / "x", 8 + header.size() + 8796093022208);  // of which the disk has nothing
  EXPECT_ERROR("memory must hold tensor \"a\"", SafetensorsFile::open(folder_ / "x").tensor("a"));
}

TEST_F(SafetensorsFiles, WhatAtenCannotHoldIsAnError) {
  const auto file_with = [&](const std::string& header, const std::string& data) {
    write_file_atomic(folder_ / "x", std::string(1, char(header.size())) + std::string(7, '\0') + header + data);
    return SafetensorsFile::open(folder_ / "x");
  };
  const auto packed = file_with("{\"a\":{\"dtype\":\"F4\",\"shape\":[2],\"data_offsets\":[0,1]}}", "x");
  EXPECT_ERROR("must have a type of whole bytes to be computed with, got F4", packed.tensor("a"));
  const auto wrong = file_with("{\"a\":{\"dtype\":\"BOOL\",\"shape\":[2],\"data_offsets\":[0,2]}}", "\x01\x02");
  EXPECT_ERROR("must hold 0 and 1 as BOOL, got another byte", wrong.tensor("a"));
  EXPECT_ERROR("tensor \"b\" must be there, got none of that name", wrong.tensor("b"));
}

TEST_F(SafetensorsFiles, PiecesGiveTheFileOfTheWholeInTheOrderInWhichTheyAreAskedFor) {
  const at::Tensor whole = at::arange(12, at::kFloat).view({4, 3}), narrow = at::arange(4, at::kByte);
  std::string asked;
  const auto in_rows = [&](const std::string& name, const at::Tensor& tensor) {
    return TensorPieces{name, tensor.scalar_type(), tensor.sizes().vec(), [&asked, name, tensor](const auto& use) {
                          asked += name;
                          for (std::int64_t row = 0; row < tensor.size(0); ++row) use(tensor.narrow(0, row, 1));
                        }};
  };
  const std::vector<TensorPieces> pieces = {in_rows("narrow", narrow), in_rows("whole", whole)};
  EXPECT_EQ(write_pieces(folder_ / "pieces", pieces),
            write_safetensors(folder_ / "whole", {{"narrow", narrow}, {"whole", whole}}));
  give_in_file_order(pieces);
  EXPECT_EQ(asked, "wholenarrowwholenarrow");
  EXPECT_EQ(read_file(folder_ / "pieces"), read_file(folder_ / "whole"));

  std::vector<TensorPieces> wrong = {in_rows("whole", whole)};
  for (const std::int64_t rows : {3, 5}) {
    wrong[0].shape = {rows, 3};
    EXPECT_ERROR("the pieces of \"whole\" must be the tensor together, got 12 bytes",
                 write_pieces(folder_ / "wrong", wrong));
    EXPECT_FALSE(fs::exists(folder_ / "wrong"));
  }
}

TEST_F(SafetensorsFiles, WhatCouldNotBeReadIsNotWritten) {
  const at::Tensor one = at::zeros({1});
  write_safetensors(folder_ / "x", {{"old", one}});
  const std::string before = read_file(folder_ / "x");
  EXPECT_ERROR("once, got it twice", write_safetensors(folder_ / "x", {{"a", one}, {"a", one}}));
  EXPECT_ERROR("without control characters", write_safetensors(folder_ / "x", {{"a\n", one}}));
  EXPECT_ERROR("must be UTF-8", write_safetensors(folder_ / "x", {{"a\xFF", one}}));
  EXPECT_ERROR("another name than __metadata__", write_safetensors(folder_ / "x", {{"__metadata__", one}}));
  EXPECT_ERROR("must be defined", write_safetensors(folder_ / "x", {{"a", at::Tensor()}}));
  EXPECT_ERROR("a type that the format knows, got",
               write_safetensors(folder_ / "x", {{"a", one.to(at::kComplexDouble)}}));
  EXPECT_EQ(read_file(folder_ / "x"), before);
  EXPECT_EQ(std::distance(fs::directory_iterator(folder_), fs::directory_iterator()), 1);
}

TEST_F(TensorFolders, ShardsAreOneNamespace) {
  write_safetensors(folder_ / "m-1.safetensors", {{"a", at::full({2}, 1.0)}, {"b", at::full({2}, 2.0)}});
  write_safetensors(folder_ / "m-2.safetensors", {{"c", at::full({2}, 3.0)}});
  const auto index = [&](const std::string& map) {
    write_file_atomic(folder_ / "model.safetensors.index.json", "{\"weight_map\":{" + map + "}}");
  };
  const std::string a = R"("a":"m-1.safetensors")", b = R"("b":"m-1.safetensors")", c = R"("c":"m-2.safetensors")";
  index(a + "," + b + "," + c);
  const auto folder = TensorFolder::open(folder_);
  EXPECT_EQ(folder.names(), (std::vector<std::string>{"a", "b", "c"}));
  EXPECT_EQ(folder.tensor("c")[1].item<double>(), 3.0);
  EXPECT_EQ(folder.info("b").dtype, "F32");
  EXPECT_ERROR("tensor \"d\" must be there", folder.tensor("d"));

  index(a + "," + c);
  EXPECT_ERROR("tensor \"b\" must be named by the index", TensorFolder::open(folder_));
  index(a + "," + b + "," + R"("c":"m-1.safetensors")");
  EXPECT_ERROR("tensor \"c\" must be in m-1.safetensors, got none there", TensorFolder::open(folder_));
  index(a + "," + b + "," + c + R"(,"d":"m-3.safetensors")");
  EXPECT_ERROR("shard m-3.safetensors must be in the folder", TensorFolder::open(folder_));
  write_safetensors(folder_ / "m-3.safetensors", {{"a", at::zeros({1})}, {"d", at::zeros({1})}});
  EXPECT_ERROR("must be in one shard, got it again", TensorFolder::open(folder_));
}

TEST_F(TensorFolders, OneFileIsTakenWithOrWithoutItsFolder) {
  write_safetensors(folder_ / "model.safetensors", {{"a", at::zeros({1})}}, {{"key", "value"}});
  EXPECT_TRUE(TensorFolder::open(folder_).contains("a"));
  EXPECT_EQ(TensorFolder::open(folder_ / "model.safetensors").metadata().at("key"), "value");
}

TEST_F(TensorFolders, PickleIsNeverOpened) {
  EXPECT_ERROR("got neither", TensorFolder::open(folder_));
  write_file_atomic(folder_ / "pytorch_model.bin", "x");
  EXPECT_ERROR("got pickled weights only, which are never opened", TensorFolder::open(folder_));
  EXPECT_ERROR("must be readable", TensorFolder::open(folder_ / "nothing"));
}

}  // namespace
}  // namespace lmhead
