#include "lmhead/cli/model_argument.h"

#include <algorithm>
#include <cctype>

#include "lmhead/base/error.h"
#include "lmhead/cli/python_program.h"

namespace lmhead {
namespace {

namespace fs = std::filesystem;

/// [A-Za-z0-9._-]+ that does not open like a path.
bool is_name(const std::string& text) {
  return !text.empty() && text[0] != '.' && text[0] != '-' &&
         std::all_of(text.begin(), text.end(),
                     [](unsigned char c) { return std::isalnum(c) || c == '.' || c == '_' || c == '-'; });
}

bool is_hub_name(const std::string& given) {
  const std::string name = given.substr(0, given.find('@'));
  const auto slash = name.find('/');
  if (slash == std::string::npos) return is_name(name);
  return is_name(name.substr(0, slash)) && is_name(name.substr(slash + 1));
}

}  // namespace

fs::path resolve_model(const std::string& given) {
  std::error_code error;
  const bool is_gguf = given.ends_with(".gguf");
  if (fs::exists(given, error) && !is_gguf) return given;
  const bool looks_like_file = is_gguf || (given.size() > 12 && given.ends_with(".safetensors"));
  require(fs::exists(given, error) || (is_hub_name(given) && !looks_like_file), "lmhead",
          "MODEL must be a folder, a .safetensors or .gguf file or a name on the hub, got nothing at ", given);
  return run_python_program("lmhead-fetch", {"--", given});
}

}  // namespace lmhead
