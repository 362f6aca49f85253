#include "lmhead/data/data_options.h"

namespace lmhead {

void SpamlangOptions::visit_fields(FieldVisitor& visitor) {
  visitor.field("vocab_size", vocab_size, "number of symbols", between(1, 1 << 24));
  visitor.field("shuffled_map", shuffled_map,
                "the target of symbol x is pi(x) for a random permutation pi, so that no target can be copied");
}

void DataOptions::visit_fields(FieldVisitor& visitor) {
  visitor.field("kind", kind,
                "token ids from files, or the synthetic language in which each sequence repeats one symbol",
                {"tokens", "spamlang"});
  visitor.field("path", path, "folder of the dataset, for kind tokens");
  visitor.field("token_type", token_type,
                "how ids are stored in files that say it neither in a header nor in a dataset.json; auto: uint32 where "
                "the vocabulary is larger than 65,536, else uint16",
                {"auto", "uint16", "uint32"});
  visitor.field("sequence_length", sequence_length, "tokens in a sequence", between(1, 1 << 24));
  visitor.field("batch_size", batch_size, "sequences in a step", between(1, 1 << 24));
  visitor.field("micro_batches", micro_batches,
                "equal parts of a step's batch that are computed one after another, to save memory; divides batch_size",
                between(1, 1 << 24));
  visitor.field("validation_tokens", validation_tokens, "tokens of the validation split that a validation uses",
                between(1, 1e15));
  visitor.field(
      "shift_windows", shift_windows,
      "epochs cut the text at different places; false: every epoch has the same windows, from the first token on");
  visitor.field("seed", seed, "seed of the order of the data; null: the run's seed", at_least(0));
  visitor.group("spamlang", spamlang, "the synthetic language, for kind spamlang");
}

}  // namespace lmhead
