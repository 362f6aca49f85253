#include "lmhead/models/hf_configuration.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "lmhead/base/error.h"
#include "lmhead/base/json.h"
#include "lmhead/base/printable_text.h"

namespace lmhead {
namespace {

constexpr std::uintmax_t kLargestFile = std::uintmax_t(1) << 20;

/// A value for a message, cut short; containers by their kind, because printing one follows its nesting.
std::string shown(const nlohmann::json* value) {
  if (!value) return "nothing";
  if (value->is_string()) return quote_for_message(value->get_ref<const std::string&>());
  if (value->is_structured()) return value->is_array() ? "an array" : "an object";
  return value->dump();
}

}  // namespace

HfConfiguration HfConfiguration::read(const std::filesystem::path& file) {
  return HfConfiguration(read_foreign_json(file, kLargestFile), file.string());
}

HfConfiguration::HfConfiguration(const std::string& text, const std::string& file)
    : HfConfiguration(parse_foreign_json(text, file), file) {}

HfConfiguration::HfConfiguration(nlohmann::json json, std::string file)
    : root_(std::make_shared<const nlohmann::json>(std::move(json))), object_(root_.get()), who_(std::move(file)) {
  require(object_->is_object(), "checkpoint", who_, " must be an object, got ", shown(object_));
}

const nlohmann::json* HfConfiguration::find(const std::string& key) const {
  const auto place = object_->find(key);
  return place == object_->end() || place->is_null() ? nullptr : &*place;
}

const nlohmann::json& HfConfiguration::need(const std::string& key, const char* must) const {
  const nlohmann::json* value = find(key);
  if (!value) refuse(key, must);
  return *value;
}

void HfConfiguration::refuse(const std::string& key, const std::string& must) const {
  fail("checkpoint", who_, ": ", key, " must be ", must, ", got ", shown(find(key)));
}

bool HfConfiguration::has(const std::string& key) const { return find(key) != nullptr; }

bool HfConfiguration::is_null(const std::string& key) const { return object_->contains(key) && !has(key); }

std::int64_t HfConfiguration::size(const std::string& key, std::optional<std::int64_t> fallback,
                                   std::int64_t least) const {
  if (fallback && !has(key)) return *fallback;
  constexpr std::uint64_t kMost = 2147483647;
  const std::string must = "an integer from " + std::to_string(least) + " to " + std::to_string(kMost);
  const nlohmann::json& value = need(key, must.c_str());
  // Unsigned is what the parser makes of every integer that is not negative.
  const std::uint64_t got = value.is_number_unsigned() ? value.get<std::uint64_t>() : kMost + 1;
  if (got > kMost || std::int64_t(got) < least) refuse(key, must);
  return std::int64_t(got);
}

double HfConfiguration::positive(const std::string& key, std::optional<double> fallback) const {
  if (fallback && !has(key)) return *fallback;
  const nlohmann::json& value = need(key, "a number above 0");
  if (!value.is_number() || !std::isfinite(value.get<double>()) || value.get<double>() <= 0) {
    refuse(key, "a number above 0");
  }
  return value.get<double>();
}

bool HfConfiguration::boolean(const std::string& key, bool fallback) const {
  if (!has(key)) return fallback;
  const nlohmann::json& value = need(key, "true or false");
  if (!value.is_boolean()) refuse(key, "true or false");
  return value.get<bool>();
}

std::string HfConfiguration::text(const std::string& key, std::optional<std::string> fallback) const {
  if (fallback && !has(key)) return *fallback;
  const nlohmann::json& value = need(key, "a text");
  if (!value.is_string()) refuse(key, "a text");
  return value.get<std::string>();
}

std::vector<std::string> HfConfiguration::texts(const std::string& key) const {
  const nlohmann::json& value = need(key, "an array of texts");
  std::vector<std::string> texts;
  if (!value.is_array()) refuse(key, "an array of texts");
  for (const nlohmann::json& item : value) {
    if (!item.is_string()) refuse(key, "an array of texts");
    texts.push_back(item.get<std::string>());
  }
  return texts;
}

std::vector<std::int64_t> HfConfiguration::integers(const std::string& key) const {
  const nlohmann::json* value = find(key);
  std::vector<std::int64_t> integers;
  if (!value) return integers;
  const auto add = [&](const nlohmann::json& item) {
    if (!item.is_number_integer()) refuse(key, "an integer or an array of integers");
    integers.push_back(item.get<std::int64_t>());
  };
  if (!value->is_array()) add(*value);
  else std::for_each(value->begin(), value->end(), add);
  return integers;
}

std::vector<double> HfConfiguration::positives(const std::string& key, std::size_t count) const {
  const std::string must = "an array of " + std::to_string(count) + " numbers above 0";
  const nlohmann::json& value = need(key, must.c_str());
  if (!value.is_array() || value.size() != count) refuse(key, must);
  std::vector<double> numbers;
  for (const nlohmann::json& item : value) {
    if (!item.is_number() || !std::isfinite(item.get<double>()) || item.get<double>() <= 0) refuse(key, must);
    numbers.push_back(item.get<double>());
  }
  return numbers;
}

HfConfiguration HfConfiguration::object(const std::string& key) const {
  const nlohmann::json& value = need(key, "an object");
  if (!value.is_object()) refuse(key, "an object");
  return HfConfiguration(root_, &value, who_ + ": " + key);
}

}  // namespace lmhead
