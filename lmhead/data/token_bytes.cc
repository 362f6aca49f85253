#include "lmhead/data/token_bytes.h"

#include <algorithm>
#include <cstdint>
#include <map>
#include <nlohmann/json.hpp>

#include "lmhead/base/error.h"
#include "lmhead/base/json.h"

namespace lmhead {
namespace {

constexpr std::int64_t kMostIds = std::int64_t(1) << 24;

std::string utf8_of(std::uint32_t point) {  // below 0x800, which is all that is asked for
  if (point < 0x80) return {char(point)};
  return {char(0xC0 | (point >> 6)), char(0x80 | (point & 0x3F))};
}

/// The bytes by the characters that stand for them in byte-level vocabularies: printable ones of Latin-1 for
/// themselves, the rest for U+0100 on in order.
std::map<std::string, char> byte_characters() {
  std::map<std::string, char> bytes;
  std::uint32_t next = 0x100;
  for (std::uint32_t byte = 0; byte < 256; ++byte) {
    const bool is_itself = (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
    bytes[utf8_of(is_itself ? byte : next++)] = char(byte);
  }
  return bytes;
}

/// The characters of well-formed UTF-8.
std::vector<std::string> characters_of(const std::string& text) {
  std::vector<std::string> characters;
  for (const char unit : text) {
    if ((static_cast<unsigned char>(unit) & 0xC0) != 0x80 || characters.empty()) characters.emplace_back();
    characters.back() += unit;
  }
  return characters;
}

std::string from_byte_level(const std::string& token, const std::map<std::string, char>& bytes) {
  std::string text;
  for (const std::string& character : characters_of(token)) {
    const auto byte = bytes.find(character);
    if (byte == bytes.end()) return token;  // a token that was added as it is
    text += byte->second;
  }
  return text;
}

std::string from_plain(const std::string& token) {
  if (token.size() == 6 && token.starts_with("<0x") && token[5] == '>' &&
      token.find_first_not_of("0123456789ABCDEFabcdef", 3) == 5)
    return {char(std::stoi(token.substr(3, 2), nullptr, 16))};
  std::string text;
  for (const std::string& character : characters_of(token)) text += character == "\xE2\x96\x81" ? " " : character;
  return text;
}

/// Whether a part of the tokenizer, or one of a sequence of parts, is of the type ByteLevel.
bool has_byte_level(const nlohmann::json& part) {
  if (!part.is_object()) return false;
  if (part.value("type", nlohmann::json()) == "ByteLevel") return true;
  for (const char* list : {"pretokenizers", "decoders"})
    if (part.contains(list))
      for (const nlohmann::json& one : part[list])
        if (has_byte_level(one)) return true;
  return false;
}

std::vector<std::string> bytes_of_json(const nlohmann::json& json, const std::string& name) {
  const auto check = [&](bool holds, const char* what) {
    require(holds, "data", name, " must be a tokenizer.json with ", what, ", got none");
  };
  check(json.is_object() && json.contains("model") && json["model"].is_object() && json["model"].contains("vocab"),
        "model.vocab");
  std::vector<std::string> bytes;
  const auto put = [&](const nlohmann::json& id, std::string text) {
    check(id.is_number_integer() && id.get<std::int64_t>() >= 0 && id.get<std::int64_t>() < kMostIds,
          "ids of tokens that are whole numbers");
    const auto index = id.get<std::size_t>();
    bytes.resize(std::max(bytes.size(), index + 1));
    bytes[index] = std::move(text);
  };
  const bool is_byte_level = has_byte_level(json.value("pre_tokenizer", nlohmann::json())) ||
                             has_byte_level(json.value("decoder", nlohmann::json()));
  const std::map<std::string, char> characters = byte_characters();
  const auto text_of = [&](const std::string& token) {
    return is_byte_level ? from_byte_level(token, characters) : from_plain(token);
  };
  const nlohmann::json& vocab = json["model"]["vocab"];
  if (vocab.is_object()) {
    for (const auto& item : vocab.items()) put(item.value(), text_of(item.key()));
  } else {
    check(vocab.is_array(), "model.vocab");
    for (std::size_t id = 0; id < vocab.size(); ++id) {
      check(vocab[id].is_array() && !vocab[id].empty() && vocab[id][0].is_string(), "tokens in model.vocab");
      put(id, text_of(vocab[id][0].get<std::string>()));
    }
  }
  for (const nlohmann::json& added : json.value("added_tokens", nlohmann::json::array())) {
    check(added.is_object() && added.contains("id") && added.contains("content") && added["content"].is_string(),
          "id and content of added_tokens");
    put(added["id"], added.value("special", false) ? "" : added["content"].get<std::string>());
  }
  return bytes;
}

}  // namespace

std::vector<std::string> token_bytes_of(const std::filesystem::path& tokenizer) {
  return bytes_of_json(read_foreign_json(tokenizer), tokenizer.string());
}

std::vector<std::string> token_bytes_of_text(std::string_view tokenizer, const std::string& name) {
  return bytes_of_json(parse_foreign_json(tokenizer, name), name);
}

std::vector<std::string> plain_token_bytes(std::int64_t vocab_size) {
  std::vector<std::string> bytes(static_cast<std::size_t>(vocab_size));
  for (std::size_t id = 0; id < std::min<std::size_t>(256, bytes.size()); ++id) bytes[id] = {char(id)};
  return bytes;
}

}  // namespace lmhead
