#include "lmhead/cli/command_line.h"

#include <CLI/CLI.hpp>
#include <iostream>

#include "lmhead/base/printable_text.h"

namespace lmhead {
namespace {

constexpr const char* kAbout =
    "Measures, trains and compares the output layers (LM heads) of language models.\n"
    "Verbs in Python, each with its own --help: prepare (text to tokens), report (a run or study as HTML),\n"
    "study-document (what came of a study, as Markdown), leaderboard (heads compared), log (a run's figures for\n"
    "TensorBoard, Weights & Biases or trackio), evaluate (scores on the tasks of lm-evaluation-harness), doctor (what\n"
    "is here and what is missing).\n"
    "Exit codes: 0 done; 1 a run failed or diverged, or an operation failed; 2 the request could not be carried out\n"
    "(wrong input, full disk, output that nobody takes); 130 stopped by Ctrl-C, SIGTERM or SIGHUP, training saved.";

constexpr const char* kDevice =
    "where to compute: cpu (default), cuda, cuda:N, mps, or auto: an accelerator if there is one";

// CLI11's own say "not in range" and then the largest double, three hundred digits.
CLI::Validator number_check(const std::string& what, bool zero) {
  return CLI::Validator(
      [what, zero](const std::string& text) -> std::string {
        double value = 0;
        const bool is_number = CLI::detail::lexical_cast(text, value);
        return is_number && (value > 0 || (zero && value == 0)) ? "" : "must be " + what + ", got " + text;
      },
      "");
}
CLI::Validator above_zero() { return number_check("a number above 0", false); }
CLI::Validator not_negative() { return number_check("a number of 0 or more", true); }

}  // namespace

const std::vector<std::string>& native_verbs() {
  static const std::vector<std::string> verbs = {"train",   "plan",    "study",  "heads",
                                                 "measure", "inspect", "export", "sample"};
  return verbs;
}

Request parse_command_line(int argument_count, char** arguments, bool speaks) {
  CLI::App app(kAbout, "lmhead");
  app.set_version_flag("--version", "lmhead " LMHEAD_VERSION);
  app.require_subcommand(1);
  app.get_formatter()->column_width(34);

  TrainRequest train;
  CLI::App* train_app = app.add_subcommand("train", "train a model from a configuration, or go on with a run");
  train_app->add_option("config", train.configuration, "JSON file, or the folder of a run to go on with");
  train_app->add_option("overrides", train.overrides, "key.path=value: replaces a value of the configuration");
  train_app->add_option("--run,--run-folder", train.run, "folder of the run (default: runs/NAME-OF-THE-FILE)");
  train_app->add_option("--device", train.device, kDevice);
  train_app->add_flag("--keys", train.keys, "print every configuration key with its meaning and default");

  PlanRequest plan;
  CLI::App* plan_app = app.add_subcommand(
      "plan", "say what training in several processes will need of memory, send and take, and how to share it out");
  plan_app->add_option("config", plan.configuration, "JSON file, or the folder of a run")->required();
  plan_app->add_option("overrides", plan.overrides, "key.path=value: replaces a value of the configuration");
  plan_app->add_option("--processes", plan.processes, "how many train together")
      ->check(CLI::Range(1, 1000000))
      ->capture_default_str();
  plan_app
      ->add_option("--link", plan.link,
                   "GB/s,us: what a process sends to its neighbour in a second, and the time until it begins to arrive")
      ->delimiter(',')
      ->expected(2)
      ->check(not_negative());
  plan_app
      ->add_option(
          "--rate", plan.rate,
          "TFLOP/s of a process's products (default: measured here, float32, with the threads that it will have)")
      ->check(above_zero());
  plan_app->add_option("--memory", plan.memory, "GiB that a process may take beside the program (default: any)")
      ->check(above_zero());
  plan_app->add_flag("--json", plan.json, "as JSON");

  StudyRequest study;
  CLI::App* study_app = app.add_subcommand("study", "search, run and compare arms over seeds");
  study_app->add_option("study", study.study, "JSON file of the study")->required();
  study_app->add_option("overrides", study.overrides, "key.path=value: replaces a value of the base configuration");
  study_app->add_option("--out", study.out, "folder of the study (default: runs/NAME-OF-THE-STUDY)");
  study_app
      ->add_option(
          "--jobs", study.jobs,
          "runs at once, each in a process with one thread (default: 1, with all; of a cluster: what it takes)")
      ->check(CLI::Range(1, 1024));
  study_app->add_option("--ray", study.ray,
                        "carry the runs out on the Ray cluster at this address: auto, HOST:PORT or ray://HOST:PORT");
  study_app->add_option("--shard", study.shard,
                        "i/n: carry out the i-th of n parts of the runs; the parts' rows together are the study's");
  study_app->add_option(
      "--rows", study.rows,
      "file of finished runs, read and appended to; those in it need not run again. Of a folder every file "
      "is read, so that studies share runs (default: rows.jsonl in the study's folder)");
  study_app->add_option("--device", study.device,
                        std::string(kDevice) +
                            "; several, cuda:0,cuda:1: as many runs at once, one on each; cuda with "
                            "--jobs N: N at once, on as many of them");
  study_app->add_flag("--discard-runs", study.discard_runs, "delete a run's folder once its row is written");
  CLI::Option* dry_run =
      study_app->add_flag("--dry-run", study.dry_run, "print the runs, what is done of them and the cost; run nothing");
  study_app
      ->add_flag("--statistics-only", study.statistics_only,
                 "compute the statistics of the rows there are; run nothing")
      ->excludes(dry_run);

  HeadsRequest heads;
  CLI::App* heads_app =
      app.add_subcommand("heads", "list the heads: formula, cost against the linear head, memory, source, keys");
  heads_app->add_option("type", heads.type, "one head alone");
  heads_app->add_flag("--json", heads.json, "as JSON");

  MeasureRequest measure;
  CLI::App* measure_app = app.add_subcommand("measure", "measure what a model's head does to the gradient, on text");
  measure_app
      ->add_option(
          "MODEL", measure.models,
          "folder in the Hugging Face layout, .gguf file, run or checkpoint, .safetensors file of features, hub name; "
          "several give one table")
      ->required();
  measure_app
      ->add_option("--engine", measure.engine,
                   "what computes the features: native, or transformers for a model that is no family here (default: "
                   "native)")
      ->check(CLI::IsMember({"native", "transformers"}));
  CLI::Option* texts =
      measure_app->add_option("--text", measure.texts,
                              "what prepare reads; a file of plain text is a document, a line of a .jsonl file is one");
  for (const auto& [option, meaning] : {
           std::pair{"--text-field",
                     "key or column of the text in .jsonl, .json, .csv, .parquet and others (default: text)"},
           {"--split-at", "a text has several documents with this between them: '<|endoftext|>'"},
           {"--encoding", "of the text, such as latin-1 or utf-16 (default: utf-8)"},
           {"--split", "the split of hf:NAME (default: train)"},
           {"--suffix",
            "what to read in folders and archives, and what is text although it has NUL bytes; may be repeated"},
           {"--document-bytes", "cut text files longer than this at line ends into several documents (default: none)"},
       })
    measure_app
        ->add_option_function<std::vector<std::string>>(
            option,
            [&measure, name = std::string(option)](const std::vector<std::string>& values) {
              for (const std::string& value : values) measure.text_options.push_back(name + "=" + value);
            },
            meaning)
        ->allow_extra_args(false)
        ->needs(texts);
  measure_app
      ->add_option(
          "--bos", measure.bos,
          "where the beginning-of-text token stands: every-window, first (of every document) or none (default: "
          "first where the tokenizer adds it by itself, else none)")
      ->check(CLI::IsMember({"every-window", "first", "none"}))
      ->needs(texts);
  CLI::Option* tokens =
      measure_app->add_option("--tokens", measure.tokens, "file of token ids instead")->excludes("--text");
  measure_app
      ->add_option("--token-type", measure.token_type,
                   "how they are stored where neither a header nor a dataset.json says it: uint16 or uint32 (default: "
                   "by the vocabulary)")
      ->check(CLI::IsMember({"auto", "uint16", "uint32"}))
      ->needs(tokens);
  measure_app->add_option("--max-tokens", measure.max_tokens, "tokens to score (default: all)")->check(above_zero());
  measure_app
      ->add_option("--sequence-length", measure.sequence_length,
                   "tokens of a window (default: the model's, at most 1024)")
      ->check(above_zero());
  measure_app->add_flag("--by-document", measure.by_document, "no window crosses a document (always so for --text)");
  measure_app->add_flag("--all-checkpoints", measure.all_checkpoints,
                        "every checkpoint of a run, not the newest alone");
  measure_app->add_flag("--best-checkpoint", measure.best_checkpoint, "the checkpoint of lowest validation loss")
      ->excludes("--all-checkpoints");
  measure_app->add_option("--only", measure.only, "diagnostics to run (default: all), such as gradient_retention");
  measure_app
      ->add_option("--sample", measure.sample_tokens,
                   "tokens for spectrum and steps (default: 4096); beyond 32768 the spectrum is sketched, with bounds")
      ->check(CLI::Range(std::int64_t(2), std::int64_t(1) << 40));
  measure_app->add_option("--sketch-memory", measure.sketch_gib, "GiB of that sketch (default: 1)")
      ->check(above_zero());
  measure_app
      ->add_option("--precision", measure.precision,
                   "of the products that features are made of: float32, bfloat16, or auto: bfloat16 where weights are "
                   "stored so and the processor has instructions for it (default: float32)")
      ->check(CLI::IsMember({"float32", "bfloat16", "auto"}));
  measure_app
      ->add_option("--memory", measure.memory,
                   "what the process may take, such as 8GiB: one layer is in memory at a time, and as many tokens go "
                   "through it as fit (default: 65536 tokens)")
      ->transform(CLI::AsSizeValue(false))
      ->check(above_zero());
  measure_app->add_option(
      "--keep", measure.keep,
      "folder in which a measurement keeps its features while it runs: the same command goes on "
      "where it was interrupted. 4 bytes a number; gone when it is done (default: nothing is kept)");
  measure_app->add_option("--device", measure.device, kDevice);
  measure_app->add_flag("--float64", measure.float64, "the head's arithmetic in float64: slower, more digits");
  measure_app->add_flag("--center-weight", measure.center_weight, "measure the head less its mean row");
  measure_app->add_option("--json", measure.json, "file for every figure");
  measure_app->add_option("--html", measure.html, "file for a page with tables and plots");

  InspectRequest inspect;
  CLI::App* inspect_app = app.add_subcommand("inspect", "list a model's configuration and tensors");
  inspect_app->add_option("MODEL", inspect.model, "what measure takes, or any .safetensors file")->required();
  inspect_app->add_flag("--json", inspect.json, "as JSON");

  ExportRequest export_request;
  CLI::App* export_app = app.add_subcommand("export", "write a run as a folder that Hugging Face transformers loads");
  export_app->add_option("run", export_request.run, "folder of a run (its newest checkpoint) or of a checkpoint")
      ->required();
  export_app->add_option("folder", export_request.folder, "folder to write; an earlier export is replaced")->required();

  SampleRequest sample;
  CLI::App* sample_app = app.add_subcommand("sample", "let a model go on with a text");
  sample_app
      ->add_option("model", sample.model, "folder in the Hugging Face layout, .gguf file, run or checkpoint, hub name")
      ->required();
  sample_app->add_option("--prompt", sample.prompt, "the text to go on with");
  sample_app->add_option("--prompt-ids", sample.prompt_ids, "the same as ids: 1,2,3")->delimiter(',');
  sample_app->add_option("--max-new-tokens", sample.max_new_tokens, "tokens at most")->capture_default_str();
  sample_app->add_option("--temperature", sample.temperature, "divides the logits; 0: always the likeliest token")
      ->capture_default_str();
  sample_app->add_option("--top-k", sample.top_k, "draw from the k likeliest tokens; 0: from all")
      ->capture_default_str();
  sample_app->add_option("--top-p", sample.top_p, "draw from the fewest tokens that have probability p together")
      ->capture_default_str();
  sample_app->add_option("--seed", sample.seed, "of the draws")->capture_default_str();
  sample_app->add_option("--device", sample.device, kDevice);
  sample_app->add_flag("--ids", sample.ids, "print ids, separated by commas, instead of text");
  sample_app->add_flag("--raw", sample.raw,
                       "print the text's own bytes; without it control characters other than line ends and tabs, which "
                       "a terminal would obey, and bytes that are no UTF-8 are spelled out (\\x1b)");

  try {
    app.parse(argument_count, arguments);
    if (train_app->parsed() && !train.keys && train.configuration.empty()) throw CLI::RequiredError("config");
    if (sample_app->parsed() && sample.prompt.has_value() == !sample.prompt_ids.empty())
      throw CLI::RequiredError("one of --prompt and --prompt-ids");
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) throw CommandLineEnd{speaks ? app.exit(error) : 0};  // help and version
    if (!speaks) throw CommandLineEnd{2};
    std::cerr << "[lmhead] " << printable_text(error.what()) << " (see lmhead";
    for (const CLI::App* verb : app.get_subcommands()) std::cerr << ' ' << verb->get_name();
    std::cerr << " --help)\n";
    throw CommandLineEnd{2};
  }
  if (train_app->parsed()) return train;
  if (plan_app->parsed()) return plan;
  if (study_app->parsed()) return study;
  if (measure_app->parsed()) return measure;
  if (inspect_app->parsed()) return inspect;
  if (export_app->parsed()) return export_request;
  if (sample_app->parsed()) return sample;
  return heads;
}

}  // namespace lmhead
