#include "lmhead/train/step_record.h"

#include <cmath>

namespace lmhead {

Json to_json(const StepRecord& record) {
  Json json = {{"step", record.step},
               {"tokens", record.tokens},
               {"loss", record.loss ? Json(*record.loss) : Json(nullptr)},
               {"learning_rate", record.learning_rate},
               {"gradient_norm", record.gradient_norm},
               {"tokens_per_second", record.tokens_per_second},
               {"wall_seconds", record.wall_seconds},
               {"measure_seconds", record.measure_seconds}};
  if (!record.loss) json.erase("loss");
  if (!std::isfinite(record.gradient_norm)) json.erase("gradient_norm");
  if (record.loss_scale.is_on())
    json["loss_scale"] = record.loss_scale.factor, json["skipped_steps"] = record.loss_scale.skipped_steps;
  if (record.exchange_seconds) json["exchange_seconds"] = *record.exchange_seconds;
  if (record.exchange_bytes) json["exchange_bytes"] = std::llround(*record.exchange_bytes);
  if (record.validation) json["validation"] = to_json(*record.validation);
  for (const auto& item : record.observations.items()) json[item.key()] = item.value();
  return json;
}

}  // namespace lmhead
