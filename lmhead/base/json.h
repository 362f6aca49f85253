// JSON that anybody may have written, read everywhere under the same limits.
#pragma once

#include <cstdint>
#include <filesystem>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <string_view>

namespace lmhead {

/// An object keeps its keys in the order in which they were written.
using Json = nlohmann::ordered_json;

constexpr std::uintmax_t kLargestJson = std::uintmax_t(64) << 20;  // bytes of a file

/// Parses JSON text of ours; `who`, the file's name as a rule, opens every message. Throws, in one line, on what is no
/// JSON, is no UTF-8, is nested more than 100 deep, holds a number beyond float64, or names a key of an object twice:
/// one of the two would have no effect.
Json parse_json(std::string_view text, const std::string& who);

/// The same of a file of at most `most` bytes, whose name opens the messages.
Json read_json(const std::filesystem::path& file, std::uintmax_t most = kLargestJson);

/// The value of a line of JSON, or nothing where that is cut short or no such line.
std::optional<Json> try_parse_json(std::string_view line);

/// Parses a file of another program under the same limits; of a key that stands twice the last counts, as in most
/// readers. An object's keys are sorted, so that one with many (a tokenizer's vocabulary) is no slower for it.
nlohmann::json parse_foreign_json(std::string_view text, const std::string& who);

/// The same of a file.
nlohmann::json read_foreign_json(const std::filesystem::path& file, std::uintmax_t most = kLargestJson);

}  // namespace lmhead
