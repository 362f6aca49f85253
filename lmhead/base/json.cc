#include "lmhead/base/json.h"

#include <nlohmann/json.hpp>
#include <set>
#include <utility>
#include <vector>

#include "lmhead/base/error.h"
#include "lmhead/base/input_file.h"
#include "lmhead/base/printable_text.h"

namespace lmhead {
namespace {

// Values are printed, compared and destroyed by functions that call themselves once a level.
constexpr int kDeepest = 100;
// An ordered object looks through all its keys for each.
constexpr std::size_t kMostKeys = 10000;

/// Sees every value while it is being read, and throws before one is kept that must not be.
template <class Value>
class Limits {
 public:
  Limits(std::string_view who, bool keys_are_single) : who_(who), keys_are_single_(keys_are_single) {}

  bool operator()(int depth, nlohmann::detail::parse_event_t event, const Value& value) {
    using Event = nlohmann::detail::parse_event_t;
    const bool opens_object = event == Event::object_start;
    require((!opens_object && event != Event::array_start) || depth < kDeepest, who_, "must be nested at most ",
            kDeepest, " deep, got more");
    if (!keys_are_single_) return true;
    if (opens_object) open_.emplace_back();
    if (event == Event::object_end) open_.pop_back();
    if (event == Event::key) add_key(value.template get_ref<const std::string&>());
    return true;
  }

 private:
  void add_key(const std::string& key) {
    require(open_.back().insert(key).second, who_, "must name a key of an object once, got ", quote_for_message(key),
            " twice");
    require(open_.back().size() <= kMostKeys, who_, "must have at most ", kMostKeys, " keys in an object, got more");
  }

  std::string_view who_;
  bool keys_are_single_;
  std::vector<std::set<std::string>> open_;  // the keys of every object that is being read
};

template <class Value>
Value parse(std::string_view text, const std::string& who, bool keys_are_single) {
  Limits<Value> limits(who, keys_are_single);
  try {
    return Value::parse(text, [&](int depth, nlohmann::detail::parse_event_t event, Value& value) {
      return limits(depth, event, value);
    });
  } catch (const nlohmann::detail::parse_error& error) {
    const std::size_t malformed = first_malformed_byte(text);
    require(malformed == text.size(), who, "must be UTF-8, got a malformed sequence at byte ", malformed);
    fail(who, "must be valid JSON, got an error at byte ", error.byte);
  } catch (const nlohmann::detail::exception&) {  // 1e999 is well-formed and still no number
    fail(who, "must hold numbers that float64 can, got one that it cannot");
  }
}

}  // namespace

Json parse_json(std::string_view text, const std::string& who) { return parse<Json>(text, who, true); }

Json read_json(const std::filesystem::path& file, std::uintmax_t most) {
  return parse_json(InputFile(file).read(most), file.string());
}

std::optional<Json> try_parse_json(std::string_view line) {
  try {
    return parse_json(line, "line");
  } catch (const Error&) {
    return std::nullopt;
  }
}

nlohmann::json parse_foreign_json(std::string_view text, const std::string& who) {
  return parse<nlohmann::json>(text, who, false);
}

nlohmann::json read_foreign_json(const std::filesystem::path& file, std::uintmax_t most) {
  return parse_foreign_json(InputFile(file).read(most), file.string());
}

}  // namespace lmhead
