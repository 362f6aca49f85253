// Which bytes of text each id of a tokenizer stands for.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

namespace lmhead {

/// The bytes of every id of a Hugging Face `tokenizer.json` (BPE, WordPiece, WordLevel or Unigram), by id;
/// empty for special tokens and for ids that the file leaves out. Byte-level vocabularies are read back into bytes, in
/// others the mark of a word's beginning (U+2581) is a space and `<0x0A>` its byte. Throws, naming the file, where it
/// is no such file.
std::vector<std::string> token_bytes_of(const std::filesystem::path& tokenizer);

/// The same from such a file's text, which messages call `name`.
std::vector<std::string> token_bytes_of_text(std::string_view tokenizer, const std::string& name);

/// Those of plain bytes: ids 0 to 255, and nothing for the others up to `vocab_size`.
std::vector<std::string> plain_token_bytes(std::int64_t vocab_size);

}  // namespace lmhead
