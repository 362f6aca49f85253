#include <cstdio>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>

#include "lmhead/base/device.h"
#include "lmhead/base/error.h"
#include "lmhead/base/line_process.h"
#include "lmhead/base/printable_text.h"
#include "lmhead/cli/commands.h"
#include "lmhead/cli/model_argument.h"
#include "lmhead/cli/progress.h"
#include "lmhead/cli/python_program.h"
#include "lmhead/cli/signals.h"
#include "lmhead/measure/load_model.h"
#include "lmhead/models/generation.h"

namespace lmhead {
namespace {

namespace fs = std::filesystem;
using Ids = std::vector<std::int64_t>;

/// Text to ids and back.
class TextCodec {
 public:
  virtual ~TextCodec() = default;
  virtual Ids encode(const std::string& text) = 0;
  /// What is decoded next stands behind these ids.
  virtual void begin(const Ids& prompt) = 0;
  /// The text that became certain with this id.
  virtual std::string decode(std::int64_t id) = 0;
  /// What is left at the end.
  virtual std::string finish() = 0;
};

class ByteCodec : public TextCodec {
 public:
  Ids encode(const std::string& text) override {
    return {reinterpret_cast<const unsigned char*>(text.data()),
            reinterpret_cast<const unsigned char*>(text.data()) + text.size()};
  }
  void begin(const Ids&) override {}
  std::string decode(std::int64_t id) override { return id < 256 ? std::string(1, char(id)) : ""; }
  std::string finish() override { return ""; }
};

/// Asks the program lmhead-tokenizer, which is Python.
class TokenizerCodec : public TextCodec {
 public:
  TokenizerCodec(const fs::path& program, const fs::path& tokenizer, bool special)
      : process_(program, special ? std::vector<std::string>{tokenizer.string(), "--special"}
                                  : std::vector<std::string>{tokenizer.string()}) {}
  Ids encode(const std::string& text) override { return ask({{"encode", text}}).at("ids").get<Ids>(); }
  void begin(const Ids& prompt) override { ask({{"begin", prompt}}); }
  std::string decode(std::int64_t id) override { return ask({{"decode", id}}).at("text").get<std::string>(); }
  std::string finish() override { return ask({{"decode", nullptr}}).at("text").get<std::string>(); }

 private:
  Json ask(const Json& request) {
    // An argument that is no UTF-8 gets U+FFFD, as a document does that is prepared.
    const Json answer =
        parse_json(process_.ask(request.dump(-1, ' ', true, Json::error_handler_t::replace)), "lmhead-tokenizer");
    require(!answer.contains("error"), "sample",
            "the tokenizer must serve, got: ", answer.value("error", std::string()));
    return answer;
  }

  LineProcess process_;
};

/// Null where the ids have no text, or the helper is not there.
std::unique_ptr<TextCodec> make_codec(const LoadedModel& model) {
  if (model.text.is_bytes) return std::make_unique<ByteCodec>();
  if (!model.text.tokenizer) return nullptr;
  const auto program = find_python_program("lmhead-tokenizer");
  if (!program) return nullptr;
  return std::make_unique<TokenizerCodec>(*program, *model.text.tokenizer, model.text.adds_special_tokens);
}

Ids encode_prompt(const SampleRequest& request, const LoadedModel& model, TextCodec* codec) {
  if (!request.prompt) return request.prompt_ids;
  require(codec != nullptr, "sample",
          model.text.tokenizer ? "lmhead-tokenizer must be beside this program or on the path for --prompt, got none"
                               : "the model must have a tokenizer for --prompt, got none",
          "; --prompt-ids 1,2,3 works without");
  return codec->encode(*request.prompt);
}

}  // namespace

int run_sample(const SampleRequest& request) {
  const fs::path folder = resolve_model(request.model);
  require(fs::is_directory(folder), "sample", "the model must be a folder, got ", folder.string());
  const LoadedModel model = load_model(folder, at::kFloat, find_device(request.device, "sample"));
  std::unique_ptr<TextCodec> codec = request.ids && !request.prompt ? nullptr : make_codec(model);
  const Ids prompt = encode_prompt(request, model, codec.get());
  const bool prints_ids = request.ids || !codec;
  if (!prints_ids) codec->begin(prompt);
  install_stop_handler();

  PrintableStream printable;
  const auto print = [&](const std::string& said) {
    const std::string text = request.raw ? said : printable.add(said);
    std::fwrite(text.data(), 1, text.size(), stdout);
    std::fflush(stdout);
  };
  bool first = true;
  const Ids generated = generate(*model.decoder, *model.head, prompt,
                                 {.sampling = {request.temperature, request.top_k, request.top_p},
                                  .max_new_tokens = request.max_new_tokens,
                                  .seed = request.seed,
                                  .end_tokens = model.text.end_tokens,
                                  .end_of_document = model.text.end_of_document},
                                 [&](std::int64_t id) {
                                   print(prints_ids ? (first ? "" : ",") + std::to_string(id) : codec->decode(id));
                                   first = false;
                                   return !stop_requested() && std::ferror(stdout) == 0;  // else nobody reads it
                                 });
  if (!prints_ids) print(codec->finish());
  std::printf("%s\n", printable.finish().c_str());
  if (prints_ids && !request.ids)
    std::fprintf(stderr, "[sample] these are ids: %s\n",
                 model.text.tokenizer ? "lmhead-tokenizer is not there" : "the model has no tokenizer");
  if (stop_requested()) return 130;
  const std::int64_t positions = model.decoder->specification().position_embeddings;
  if (positions > 0 && std::int64_t(prompt.size() + generated.size()) > positions &&
      std::int64_t(generated.size()) < request.max_new_tokens)
    std::fprintf(stderr, "[sample] ended early: the model has %lld positions\n", static_cast<long long>(positions));
  return 0;
}

}  // namespace lmhead
