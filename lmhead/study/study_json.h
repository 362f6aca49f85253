// Members of a study file, read with errors that name them.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "lmhead/base/options.h"

namespace lmhead {

/// `json` itself; throws that `name` must be `must` where it is of another type.
const Json& typed(const Json& json, const std::string& name, Json::value_t type, const char* must);
/// The member `key`, which must be there.
const Json& member(const Json& json, const char* key, Json::value_t type, const char* must);
/// The member `name`, `where` in messages: what a study, an arm or a place of the grid is called, which becomes a
/// folder, a column of a table and a heading. Throws where it is empty, longer than 200 bytes, `.` or `..`, or has
/// control characters, or a slash that would make it a path elsewhere: any in a study's name; in others (`is_arm`;
/// A^-1/2 is one) at an end, beside another or a part of dots.
std::string name_member(const Json& json, bool is_arm, const std::string& where);
std::string text_member(const Json& json, const char* key, const std::string& otherwise);
/// Throws on a key of `json` that is not among `known`; `where` goes before its name.
void check_keys(const Json& json, const std::string& where, const std::vector<std::string>& known);
std::vector<std::string> read_texts(const Json& json, const std::string& name);
/// At least one, none twice, none negative.
std::vector<std::int64_t> read_seeds(const Json& json, const std::string& name);
/// A finite number above `above`.
double read_number(const Json& json, const std::string& name, double above);

}  // namespace lmhead
