#include "lmhead/base/options.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "lmhead/base/error.h"
#include "lmhead/base/printable_text.h"

namespace lmhead {
namespace {

constexpr const char* kTextOrNull = "null or a text";
constexpr const char* kIntegers = "a list of integers, each";
constexpr const char* kNumbersOrNulls = "a list of numbers and nulls";
constexpr const char* kObject = "an object";

std::string describe_range(const char* type, Range range) {
  std::ostringstream text;
  text.precision(15);  // sizes are written in all their digits
  text << type;
  if (std::isfinite(range.low)) text << (range.above_low ? " above " : " of at least ") << range.low;
  if (std::isfinite(range.high)) text << (std::isfinite(range.low) ? " and" : "") << " at most " << range.high;
  return text.str();
}

std::string describe_choices(const std::vector<std::string>& choices) {
  if (choices.empty()) return "a text";
  std::string text = "one of ";
  for (std::size_t index = 0; index < choices.size(); ++index) text += (index ? ", " : "") + choices[index];
  return text;
}

/// Short enough for a one-line message, whatever was in the file.
std::string excerpt(const Json& value) {
  std::string text = value.dump(-1, ' ', false, Json::error_handler_t::replace);
  return text.size() > 80 ? text.substr(0, 77) + "..." : text;
}

class PathVisitor : public FieldVisitor {
 protected:
  std::string path_to(const std::string& name) const {
    std::string path;
    for (const std::string& part : path_)
      if (!part.empty()) path += part + ".";
    return path + name;
  }
  std::vector<std::string> path_;
};

class Reader : public PathVisitor {
 public:
  Reader(const Json& json, std::string who) : who_(std::move(who)) { open(&json); }

  void field(const char* name, bool& value, const char*) override {
    const Json* found = find(name);
    if (!found) return;
    if (!found->is_boolean()) reject(name, "true or false", *found);
    value = found->get<bool>();
  }
  void field(const char* name, std::int64_t& value, const char*, Range range) override {
    if (const Json* found = find(name)) value = integer(name, *found, range, "an integer");
  }
  void field(const char* name, double& value, const char*, Range range) override {
    if (const Json* found = find(name)) value = number(name, *found, range, "a number");
  }
  void field(const char* name, std::string& value, const char*, const std::vector<std::string>& choices) override {
    const Json* found = find(name);
    if (!found) return;
    if (!found->is_string()) reject(name, describe_choices(choices), *found);
    auto text = found->get<std::string>();
    if (!choices.empty() && std::find(choices.begin(), choices.end(), text) == choices.end())
      reject(name, describe_choices(choices), *found);
    value = text;
  }
  void field(const char* name, std::vector<double>& value, const char*, Range range) override {
    const Json* found = find(name);
    if (!found) return;
    if (!found->is_array()) reject(name, "a list of numbers", *found);
    value.clear();
    for (const Json& item : *found) value.push_back(number(name, item, range, "a list of numbers, each"));
  }
  void field(const char* name, std::optional<std::int64_t>& value, const char*, Range range) override {
    const Json* found = find(name);
    if (!found) return;
    value.reset();
    if (!found->is_null()) value = integer(name, *found, range, "null or an integer");
  }
  void field(const char* name, std::optional<double>& value, const char*, Range range) override {
    const Json* found = find(name);
    if (!found) return;
    value.reset();
    if (!found->is_null()) value = number(name, *found, range, "null or a number");
  }
  void field(const char* name, std::optional<std::string>& value, const char*) override {
    const Json* found = find(name);
    if (!found) return;
    if (!found->is_null() && !found->is_string()) reject(name, kTextOrNull, *found);
    value = found->is_null() ? std::nullopt : std::optional(found->get<std::string>());
  }
  void field(const char* name, std::vector<std::int64_t>& value, const char*, Range range) override {
    const Json* found = find(name);
    if (!found) return;
    if (!found->is_array()) reject(name, "a list of integers", *found);
    value.clear();
    for (const Json& item : *found) value.push_back(integer(name, item, range, kIntegers));
  }
  void field(const char* name, std::vector<std::optional<double>>& value, const char*) override {
    const Json* found = find(name);
    if (!found) return;
    if (!found->is_array()) reject(name, kNumbersOrNulls, *found);
    value.clear();
    for (const Json& item : *found)
      value.push_back(item.is_null() ? std::nullopt : std::optional(number(name, item, {}, kNumbersOrNulls)));
  }
  void field(const char* name, Json& value, const char*) override {
    const Json* found = find(name);
    if (!found) return;
    if (!found->is_object()) reject(name, kObject, *found);
    value = *found;
  }

  void finish() const { check_all_known(levels_.back()); }

 protected:
  bool enter_group(const char* name, const char*) override {
    const Json* found = find(name);
    if (!found) return false;
    path_.push_back(name);
    open(found);
    return true;
  }
  std::size_t enter_list(const char* name, std::size_t, const char*) override {
    const Json* found = find(name);
    static const Json empty = Json::array();
    if (!found) found = &empty;
    if (!found->is_array()) reject(name, "a list", *found);
    path_.push_back(name);
    levels_.push_back({found, {}});
    return found->size();
  }
  void enter_item(std::size_t index) override {
    const Json& item = levels_.back().json->at(index);
    path_.push_back(std::to_string(index));
    open(&item);
  }
  void leave() override {
    check_all_known(levels_.back());
    levels_.pop_back();
    path_.pop_back();
  }

 private:
  struct Level {
    const Json* json;
    std::vector<std::string> known;
  };

  void open(const Json* json) {
    if (!json->is_object()) {
      std::string where = path_to("");
      if (!where.empty()) where.pop_back();
      fail(who_, where.empty() ? "the whole" : where, " must be an object, got ", excerpt(*json));
    }
    levels_.push_back({json, {}});
  }
  const Json* find(const char* name) {
    levels_.back().known.push_back(name);
    const auto found = levels_.back().json->find(name);
    return found == levels_.back().json->end() ? nullptr : &*found;
  }
  void check_all_known(const Level& level) const {
    if (!level.json->is_object()) return;
    for (const auto& item : level.json->items()) {
      if (std::find(level.known.begin(), level.known.end(), item.key()) != level.known.end()) continue;
      const std::string nearest = nearest_word(item.key(), level.known);
      if (!nearest.empty())
        fail(who_, path_to(item.key()), " must be a known key, did you mean ", path_to(nearest), "?");
      std::string all;
      for (const std::string& key : level.known) all += (all.empty() ? "" : ", ") + key;
      fail(who_, path_to(item.key()), " must be a known key, known here: ", all);
    }
  }
  [[noreturn]] void reject(const char* name, const std::string& wanted, const Json& got) const {
    fail(who_, path_to(name), " must be ", wanted, ", got ", excerpt(got));
  }
  std::int64_t integer(const char* name, const Json& json, Range range, const char* type) const {
    const bool whole_float = json.is_number_float() && std::nearbyint(json.get<double>()) == json.get<double>() &&
                             std::abs(json.get<double>()) < 9e15;
    const bool fits = !json.is_number_unsigned() || json.get<std::uint64_t>() <= std::uint64_t(INT64_MAX);
    if ((!json.is_number_integer() && !whole_float) || !fits) reject(name, describe_range(type, range), json);
    const std::int64_t value = whole_float ? std::int64_t(json.get<double>()) : json.get<std::int64_t>();
    check_range(name, double(value), range, type, json);
    return value;
  }
  double number(const char* name, const Json& json, Range range, const char* type) const {
    if (!json.is_number()) reject(name, describe_range(type, range), json);
    const double value = json.get<double>();
    check_range(name, value, range, type, json);
    return value;
  }
  void check_range(const char* name, double value, Range range, const char* type, const Json& json) const {
    const bool low = range.above_low ? value > range.low : value >= range.low;
    if (!std::isfinite(value) || !low || value > range.high) reject(name, describe_range(type, range), json);
  }

  std::string who_;
  std::vector<Level> levels_;
};

class Writer : public FieldVisitor {
 public:
  void field(const char* name, bool& value, const char*) override { here()[name] = value; }
  void field(const char* name, std::int64_t& value, const char*, Range) override { here()[name] = value; }
  void field(const char* name, double& value, const char*, Range) override { here()[name] = value; }
  void field(const char* name, std::string& value, const char*, const std::vector<std::string>&) override {
    here()[name] = value;
  }
  void field(const char* name, std::vector<double>& value, const char*, Range) override { here()[name] = value; }
  void field(const char* name, std::optional<std::int64_t>& value, const char*, Range) override {
    here()[name] = value ? Json(*value) : Json(nullptr);
  }
  void field(const char* name, std::optional<double>& value, const char*, Range) override {
    here()[name] = value ? Json(*value) : Json(nullptr);
  }
  void field(const char* name, std::optional<std::string>& value, const char*) override {
    here()[name] = value ? Json(*value) : Json(nullptr);
  }
  void field(const char* name, std::vector<std::int64_t>& value, const char*, Range) override { here()[name] = value; }
  void field(const char* name, std::vector<std::optional<double>>& value, const char*) override {
    Json& list = here()[name] = Json::array();
    for (const std::optional<double>& item : value) list.push_back(item ? Json(*item) : Json(nullptr));
  }
  void field(const char* name, Json& value, const char*) override {
    here()[name] = value.is_null() ? Json::object() : value;
  }
  Json root = Json::object();

 protected:
  bool enter_group(const char* name, const char*) override {
    here()[name] = Json::object();
    places_.push_back(&here()[name]);
    return true;
  }
  std::size_t enter_list(const char* name, std::size_t size, const char*) override {
    here()[name] = Json::array();
    for (std::size_t index = 0; index < size; ++index) here()[name].push_back(Json::object());
    places_.push_back(&here()[name]);
    return size;
  }
  void enter_item(std::size_t index) override { places_.push_back(&here()[index]); }
  void leave() override { places_.pop_back(); }

 private:
  Json& here() { return *places_.back(); }
  std::vector<Json*> places_{&root};
};

class Describer : public PathVisitor {
 public:
  void field(const char* name, bool& value, const char* doc) override { add(name, "true or false", value, doc); }
  void field(const char* name, std::int64_t& value, const char* doc, Range range) override {
    add(name, describe_range("an integer", range), value, doc);
  }
  void field(const char* name, double& value, const char* doc, Range range) override {
    add(name, describe_range("a number", range), value, doc);
  }
  void field(const char* name, std::string& value, const char* doc, const std::vector<std::string>& choices) override {
    add(name, describe_choices(choices), value, doc);
  }
  void field(const char* name, std::vector<double>& value, const char* doc, Range range) override {
    add(name, describe_range("a list of numbers, each", range), value, doc);
  }
  void field(const char* name, std::optional<std::int64_t>& value, const char* doc, Range range) override {
    add(name, describe_range("null or an integer", range), value ? Json(*value) : Json(nullptr), doc);
  }
  void field(const char* name, std::optional<double>& value, const char* doc, Range range) override {
    add(name, describe_range("null or a number", range), value ? Json(*value) : Json(nullptr), doc);
  }
  void field(const char* name, std::optional<std::string>& value, const char* doc) override {
    add(name, kTextOrNull, value ? Json(*value) : Json(nullptr), doc);
  }
  void field(const char* name, std::vector<std::int64_t>& value, const char* doc, Range range) override {
    add(name, describe_range(kIntegers, range), value, doc);
  }
  void field(const char* name, std::vector<std::optional<double>>&, const char* doc) override {
    add(name, kNumbersOrNulls, Json::array(), doc);
  }
  void field(const char* name, Json&, const char* doc) override { add(name, kObject, Json::object(), doc); }
  std::vector<FieldDescription> fields;

 protected:
  bool enter_group(const char* name, const char*) override {
    path_.push_back(name);
    return true;
  }
  std::size_t enter_list(const char* name, std::size_t, const char* doc) override {
    add(name, "a list of objects", Json::array(), doc);
    path_.push_back(std::string(name) + "[]");
    return 1;  // one item, so that its keys are described too
  }
  void enter_item(std::size_t) override { path_.emplace_back(); }
  void leave() override { path_.pop_back(); }

 private:
  void add(const char* name, const std::string& type, const Json& value, const char* doc) {
    fields.push_back({path_to(name), type, value.dump(), doc});
  }
};

}  // namespace

namespace detail {

void read(AnyOptions options, const Json& json, const std::string& who) {
  Reader reader(json, who);
  options.visit_fields(reader);
  reader.finish();
}

Json write(AnyOptions options) {
  Writer writer;
  options.visit_fields(writer);
  return writer.root;
}

std::vector<FieldDescription> describe(AnyOptions options) {
  Describer describer;
  options.visit_fields(describer);
  return describer.fields;
}

}  // namespace detail

void set_at_path(Json& json, const std::string& path, const Json& value) {
  Json* place = &json;
  std::size_t start = 0;
  while (true) {
    const std::size_t dot = path.find('.', start);
    const std::string key = path.substr(start, dot == std::string::npos ? dot : dot - start);
    require(!key.empty(), "config", "a key path must be words joined by dots, got \"", path, "\"");
    if (place->is_array()) {
      const bool digits = std::all_of(key.begin(), key.end(), [](unsigned char c) { return std::isdigit(c); });
      require(digits && key.size() < 7 && std::stoul(key) < place->size(), "config", "\"", key, "\" in ", path,
              " must be an index below ", place->size());
      place = &(*place)[std::stoul(key)];
    } else {
      if (place->is_null()) *place = Json::object();
      require(place->is_object(), "config", path, " must lead through objects, got ", excerpt(*place), " before \"",
              key, "\"");
      place = &(*place)[key];
    }
    if (dot == std::string::npos) break;
    start = dot + 1;
  }
  *place = value;
}

void apply_override(Json& json, const std::string& assignment) {
  const std::size_t equals = assignment.find('=');
  require(equals != std::string::npos && equals > 0, "config", "an override must read key.path=value, got \"",
          assignment, "\"");
  require(first_malformed_byte(assignment) == assignment.size(), "config", "an override must be UTF-8, got ",
          quote_for_message(assignment));
  const std::string text = assignment.substr(equals + 1);
  set_at_path(json, assignment.substr(0, equals), try_parse_json(text).value_or(Json(text)));
}

}  // namespace lmhead
