// Options that are declared once and from that are read strictly, written back completely, and documented.
//
// An options struct has `void visit_fields(FieldVisitor&)` that names every field; three visitors do the rest.
#pragma once

#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <vector>

#include "lmhead/base/json.h"
#include "lmhead/base/words.h"

namespace lmhead {

/// The closed interval that a number must lie in; `above_low` excludes the lower end.
struct Range {
  double low = -std::numeric_limits<double>::infinity();
  double high = std::numeric_limits<double>::infinity();
  bool above_low = false;
};
inline Range at_least(double low) { return {low}; }
inline Range above(double low) { return {low, std::numeric_limits<double>::infinity(), true}; }
inline Range between(double low, double high) { return {low, high}; }

/// Walks over the fields of an options struct; what happens to each is the visitor's affair.
class FieldVisitor {
 public:
  virtual ~FieldVisitor() = default;
  virtual void field(const char* name, bool& value, const char* doc) = 0;
  virtual void field(const char* name, std::int64_t& value, const char* doc, Range range = {}) = 0;
  virtual void field(const char* name, double& value, const char* doc, Range range = {}) = 0;
  /// A text; where `choices` is not empty, one of them.
  virtual void field(const char* name, std::string& value, const char* doc,
                     const std::vector<std::string>& choices = {}) = 0;
  virtual void field(const char* name, std::vector<double>& value, const char* doc, Range range = {}) = 0;
  /// A number that may be null, which means "derive it".
  virtual void field(const char* name, std::optional<std::int64_t>& value, const char* doc, Range range = {}) = 0;
  virtual void field(const char* name, std::optional<double>& value, const char* doc, Range range = {}) = 0;
  /// A text that may be null, which means "not known".
  virtual void field(const char* name, std::optional<std::string>& value, const char* doc) = 0;
  virtual void field(const char* name, std::vector<std::int64_t>& value, const char* doc, Range range = {}) = 0;
  /// Numbers of which each may be null, which means "not finite".
  virtual void field(const char* name, std::vector<std::optional<double>>& value, const char* doc) = 0;
  /// An object whose members are not declared; the default-constructed value, null, is written as an empty one.
  virtual void field(const char* name, Json& value, const char* doc) = 0;

  /// A nested options struct.
  template <class Group>
  void group(const char* name, Group& value, const char* doc) {
    if (!enter_group(name, doc)) return;
    value.visit_fields(*this);
    leave();
  }
  /// A list of options structs.
  template <class Item>
  void list(const char* name, std::vector<Item>& items, const char* doc) {
    items.resize(enter_list(name, items.size(), doc));
    for (std::size_t index = 0; index < items.size(); ++index) {
      enter_item(index);
      items[index].visit_fields(*this);
      leave();
    }
    leave();
  }

 protected:
  virtual bool enter_group(const char* name, const char* doc) = 0;
  virtual std::size_t enter_list(const char* name, std::size_t size, const char* doc) = 0;
  virtual void enter_item(std::size_t index) = 0;
  virtual void leave() = 0;
};

/// One documented key: its dotted path, type and range in words, default as JSON text, and meaning.
struct FieldDescription {
  std::string path, type, default_value, doc;
};

namespace detail {
class AnyOptions {  // one visit through a function pointer keeps the visitors out of every header
 public:
  template <class Options>
  explicit AnyOptions(Options& options)
      : object_(&options),
        visit_([](void* object, FieldVisitor& visitor) { static_cast<Options*>(object)->visit_fields(visitor); }) {}
  void visit_fields(FieldVisitor& visitor) { visit_(object_, visitor); }

 private:
  void* object_;
  void (*visit_)(void*, FieldVisitor&);
};
void read(AnyOptions options, const Json& json, const std::string& who);
Json write(AnyOptions options);
std::vector<FieldDescription> describe(AnyOptions options);
}  // namespace detail

/// Reads `json` over the defaults. Throws on an unknown key (naming the nearest known one), a wrong type, a value
/// outside its range; `who` opens the message.
template <class Options>
Options read_options(const Json& json, const std::string& who = "config") {
  Options options;
  detail::read(detail::AnyOptions(options), json, who);
  return options;
}

/// Every field with its present value, in the order of declaration; reading it back gives the same options.
template <class Options>
auto write_options(Options options) {  // Json, which is only declared here, so that the call must depend on something
  const auto write = [](auto any) { return detail::write(any); };
  return write(detail::AnyOptions(options));
}

/// A description of every key, defaults included.
template <class Options>
std::vector<FieldDescription> describe_options() {
  Options options;
  return detail::describe(detail::AnyOptions(options));
}

/// Applies `key.path=value` to `json`: the value is JSON where it parses as such and a text otherwise.
void apply_override(Json& json, const std::string& assignment);

/// Sets the value at a dotted path, making objects on the way.
void set_at_path(Json& json, const std::string& path, const Json& value);

}  // namespace lmhead
