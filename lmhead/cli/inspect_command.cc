#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "lmhead/base/error.h"
#include "lmhead/base/files.h"
#include "lmhead/base/printable_text.h"
#include "lmhead/cli/commands.h"
#include "lmhead/cli/model_argument.h"
#include "lmhead/cli/printable_json.h"
#include "lmhead/measure/load_model.h"
#include "lmhead/models/safetensors_folder.h"

namespace lmhead {
namespace {

namespace fs = std::filesystem;

Json configuration_of(const fs::path& folder) {
  // A checkpoint's configuration is its run's.
  for (const fs::path& file : {folder / "config.json", folder / ".." / ".." / "config.json"})
    if (fs::is_regular_file(file)) return is_trained_model(folder) ? read_json(file) : Json(read_foreign_json(file));
  return nullptr;
}

void print_keys(const Json& json, const std::string& prefix) {
  for (const auto& item : json.items()) {
    const std::string key = prefix + item.key();
    if (item.value().is_object() && !item.value().empty()) {
      print_keys(item.value(), key + ".");
    } else {
      std::printf("%s = %s\n", key.c_str(), item.value().dump().c_str());
    }
  }
}

std::string shape_text(const Json& shape) {
  std::string text = "[";
  for (const Json& size : shape) text += (text.size() > 1 ? ", " : "") + size.dump();
  return text + "]";
}

}  // namespace

int run_inspect(const InspectRequest& request) {
  const fs::path path = find_models(resolve_model(request.model), CheckpointChoice::kNewest).front();
  const TensorFolder tensors = TensorFolder::open(path);
  Json list = Json::array();
  std::uint64_t bytes = 0;
  std::int64_t numbers = 0;
  for (const std::string& name : tensors.names()) {
    const SafetensorsEntry& entry = tensors.info(name);
    std::int64_t count = 1;
    for (const std::int64_t size : entry.shape) count *= size;
    list.push_back({{"name", name}, {"dtype", entry.dtype}, {"shape", entry.shape}, {"bytes", entry.bytes()}});
    bytes += entry.bytes();
    numbers += count;
  }
  const Json configuration = fs::is_directory(path) ? configuration_of(path) : Json();
  if (request.json) {
    const Json all = {{"model", path.string()},
                      {"configuration", configuration},
                      {"metadata", tensors.metadata()},
                      {"tensors", list},
                      {"numbers", numbers},
                      {"bytes", bytes}};
    std::printf("%s\n", all.dump(2, ' ', /*ensure_ascii=*/true, Json::error_handler_t::replace).c_str());
    return 0;
  }
  std::printf("%s\n", printable_text(path.string()).c_str());
  if (configuration.is_object()) print_keys(printable(configuration), "  ");
  list = printable(list);
  std::size_t name_width = 4, shape_width = 5;
  for (const Json& tensor : list) {
    name_width = std::max(name_width, tensor["name"].get_ref<const std::string&>().size());
    shape_width = std::max(shape_width, shape_text(tensor["shape"]).size());
  }
  std::printf("\n%-*s  %-7s %-*s %14s\n", int(name_width), "name", "dtype", int(shape_width), "shape", "bytes");
  for (const Json& tensor : list)
    std::printf("%-*s  %-7s %-*s %14llu\n", int(name_width), tensor["name"].get_ref<const std::string&>().c_str(),
                tensor["dtype"].get_ref<const std::string&>().c_str(), int(shape_width),
                shape_text(tensor["shape"]).c_str(),
                static_cast<unsigned long long>(tensor["bytes"].get<std::uint64_t>()));
  std::printf("%zu tensors, %lld numbers, %llu bytes\n", list.size(), static_cast<long long>(numbers),
              static_cast<unsigned long long>(bytes));
  return 0;
}

}  // namespace lmhead
