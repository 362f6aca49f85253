// What can be asked for on the command line. The front and the runner share this; it knows nothing of libtorch.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <variant>
#include <vector>

namespace lmhead {

struct TrainRequest {
  std::string configuration;           // a JSON file, or a run folder to go on with
  std::vector<std::string> overrides;  // key.path=value
  std::string run;                     // the run's folder; empty: runs/<name of the file>
  std::string device;                  // empty: the configuration's
  bool keys = false;                   // print every configuration key instead
};

struct PlanRequest {
  std::string configuration;           // a JSON file, or a run folder
  std::vector<std::string> overrides;  // key.path=value
  std::int64_t processes = 1;
  std::vector<double> link;  // GB/s and us; needed for more than one process
  double rate = 0;           // TFLOP/s of a process; 0: measured here
  double memory = 0;         // bytes that a process may take; 0: not said
  bool json = false;
};

struct StudyRequest {
  std::string study;
  std::vector<std::string> overrides;
  std::string out;                  // empty: runs/<name of the study>
  std::string rows;                 // file of finished runs; empty: rows.jsonl in the study's folder
  std::string device;               // empty: the study's
  std::string ray;                  // address of a Ray cluster; empty: runs are carried out here
  std::string shard;                // i/n; empty: every run
  std::optional<std::size_t> jobs;  // nothing: 1, one a device, or of a cluster as many as it takes
  bool dry_run = false, statistics_only = false, discard_runs = false;
};

struct HeadsRequest {
  std::string type;  // empty: all
  bool json = false;
};

struct MeasureRequest {
  std::vector<std::string> models;  // folders, runs, .safetensors files, names on the hub
  std::vector<std::string> texts;
  std::vector<std::string> text_options;  // how they are read: "--encoding=latin-1", as lmhead-tokenize takes them
  std::string engine = "native";          // or transformers
  std::string bos;                        // every-window, first or none; empty: as the tokenizer's template has it
  std::string tokens;                // a file of ids; this or texts, or neither where every model is a file of features
  std::string token_type = "auto";   // how they are stored
  std::int64_t max_tokens = 0;       // 0: all
  std::int64_t sequence_length = 0;  // 0: the model's own, at most 1024
  std::int64_t sample_tokens = 0;    // 0: the default of the diagnostics that keep a sample
  double sketch_gib = 0;             // 0: the default of the sketch that a large sample is seen through
  bool by_document = false, all_checkpoints = false, best_checkpoint = false, float64 = false, center_weight = false;
  std::vector<std::string> only;      // diagnostics; empty: all
  std::string precision = "float32";  // of the features' products: float32, bfloat16 or auto
  double memory = 0;                  // bytes that the process may take; 0: not said
  std::string keep;                   // folder for the features of an interrupted measurement; empty: none
  std::string device = "cpu";
  std::string json, html;  // files to write
};

struct InspectRequest {
  std::string model;
  bool json = false;
};

struct ExportRequest {
  std::string run;     // or a checkpoint's folder
  std::string folder;  // to be written
};

struct SampleRequest {
  std::string model;  // a folder in the Hugging Face layout, a run, a checkpoint, a name on the hub
  std::optional<std::string> prompt;
  std::vector<std::int64_t> prompt_ids;
  std::int64_t max_new_tokens = 100;
  double temperature = 1;
  std::int64_t top_k = 0;
  double top_p = 1;
  std::uint64_t seed = 0;
  std::string device = "cpu";
  bool ids = false;  // print ids instead of text
  bool raw = false;  // print control characters as they are
};

using Request = std::variant<TrainRequest, PlanRequest, StudyRequest, HeadsRequest, MeasureRequest, InspectRequest,
                             ExportRequest, SampleRequest>;

/// Thrown where there is nothing to run: help was asked for, or the arguments are wrong.
struct CommandLineEnd {
  int exit_code;
};

/// Parses a native verb's arguments. Where there is nothing to run it prints help or a one-line error if `speaks`, and
/// throws `CommandLineEnd`.
Request parse_command_line(int argument_count, char** arguments, bool speaks = true);

/// The verbs that the runner has; all others are programs called lmhead-VERB.
const std::vector<std::string>& native_verbs();

}  // namespace lmhead
