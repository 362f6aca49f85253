// Small datasets on disk for the tests of the data room.
#pragma once

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <numeric>
#include <string>
#include <vector>

#include "lmhead/base/error.h"
#include "lmhead/base/files.h"
#include "lmhead/base/sha256.h"

namespace lmhead {

/// A folder that is removed with everything in it.
class ScratchFolder {
 public:
  ScratchFolder() {
    std::string pattern = (std::filesystem::temp_directory_path() / "lmhead-data-XXXXXX").string();
    path_ = ::mkdtemp(pattern.data());
  }
  ~ScratchFolder() { std::filesystem::remove_all(path_); }
  ScratchFolder(const ScratchFolder&) = delete;
  ScratchFolder& operator=(const ScratchFolder&) = delete;
  std::filesystem::path operator/(const std::string& name) const { return path_ / name; }
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

inline void write_text(const std::filesystem::path& path, const std::string& text) {
  std::ofstream(path, std::ios::binary) << text;
}

inline std::string sha256_of(const std::filesystem::path& path) {
  const std::string content = read_file(path);
  Sha256 hash;
  hash.update(content.data(), content.size());
  return hash.hex();
}

template <class Stored>
void write_ids(const std::filesystem::path& path, const std::vector<std::int64_t>& ids,
               const std::string& header = "") {
  const std::vector<Stored> stored(ids.begin(), ids.end());
  std::ofstream file(path, std::ios::binary);
  file << header;
  file.write(reinterpret_cast<const char*>(stored.data()), std::streamsize(stored.size() * sizeof(Stored)));
}

inline std::string llm_c_header(std::int32_t magic, std::int32_t version, std::int32_t count) {
  std::vector<std::int32_t> words(256);
  words[0] = magic;
  words[1] = version;
  words[2] = count;
  return {reinterpret_cast<const char*>(words.data()), 1024};
}

inline std::vector<std::int64_t> counting(std::int64_t count, std::int64_t first = 0) {
  std::vector<std::int64_t> ids(static_cast<std::size_t>(count));
  std::iota(ids.begin(), ids.end(), first);
  return ids;
}

/// The text of the Error that `call` throws.
template <class Call>
std::string error_of(const Call& call) {
  try {
    call();
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

#define EXPECT_ERROR(statement, part) EXPECT_PRED_FORMAT2(::testing::IsSubstring, part, error_of([&] { statement; }))

}  // namespace lmhead
