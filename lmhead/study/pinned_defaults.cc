#include "lmhead/study/pinned_defaults.h"

namespace lmhead {
namespace {

constexpr const char* kPinned = R"({
  "data": {
    "kind": "tokens", "path": "", "token_type": "auto", "sequence_length": 128, "batch_size": 16, "micro_batches": 1,
    "validation_tokens": 65536, "shift_windows": true, "seed": null,
    "spamlang": {"vocab_size": 1024, "shuffled_map": false}
  },
  "model": {
    "hidden_size": 256, "intermediate_size": null, "num_hidden_layers": 6, "num_attention_heads": 4,
    "num_key_value_heads": null, "head_dim": null, "vocab_size": null, "norm": "rmsnorm", "norm_eps": 1e-05,
    "norm_position": "pre", "position": "rotary", "rope_theta": 10000.0, "max_position_embeddings": 1024,
    "activation": "swiglu", "attention_bias": false, "mlp_bias": false, "qk_norm": false,
    "tie_word_embeddings": false, "initializer": "llama", "initializer_range": 0.02
  },
  "head": {
    "linear": {
      "bias": false, "bias_initialization": "zeros", "logit_softcap": 0.0, "sigmoid_cap": [], "mup_base_width": null,
      "initializer_range": null, "mean_row_penalty": 0.0, "center_rows": false, "tied_share": 1.0
    },
    "low_rank": {"rank": 16},
    "expanded": {"width": 512, "activation": "none"},
    "two_level": {"classes": null, "by": "mass", "weights": ""},
    "adaptive": {"cutoffs": [], "width_divisor": 4.0},
    "residual_expansion": {"width": 16, "activation": "gelu"},
    "candidate": {
      "drawn": {"start": 0.2, "end": 0.5, "shape": "stages", "until": 1.0}, "full_share": 0.075,
      "negatives": "uniform", "correction": true
    },
    "multi_token": {
      "targets": 2, "width": null, "weight": {"start": 0.5, "end": 0.0, "shape": "linear", "until": 1.0}
    },
    "multi_exit": {"exits": 1, "weight": {"start": 0.3, "end": 0.0, "shape": "linear", "until": 1.0}},
    "multi_resolution": {
      "classes": [], "by": "mass", "weight": {"start": 0.5, "end": 0.0, "shape": "linear", "until": 1.0},
      "prefix": false, "prefix_weight": {"start": 0.25, "end": 0.0, "shape": "linear", "until": 1.0}
    },
    "depth_tapped": {"blocks": 4, "by": "sqrt", "taps": 1, "width": null, "activation": "gelu"},
    "mixture_of_softmaxes": {"components": 4},
    "sigsoftmax": {"bias": false},
    "piecewise_linear": {"pieces": 8, "range": 12.0},
    "normalized": {"initial_scale": null},
    "token_skip": {"width": 16, "order": 1, "buckets": null},
    "copy": {"width": 32, "gate": "slot", "band": null, "detached": false, "logit_softcap": 0.0},
    "multi_facet": {"width": null}
  },
  "loss": {"z_loss": 0.0, "label_smoothing": 0.0},
  "head_gradient": {
    "hidden": {
      "rule": "exact", "rank": null, "matrix": "head", "exponent": 0.5, "damping": 0.01, "refresh_every": 1,
      "match_rms": true, "at": "features"
    },
    "weight": {
      "rule": "exact", "matrix": "head", "exponent": 0.5, "damping": 0.01, "refresh_every": 1, "match_rms": true
    },
    "penalties": {"orthogonality": 0.0, "alignment": 0.0}
  },
  "optimizer": {
    "type": "adamw", "learning_rate": 0.003, "betas": [0.9, 0.95], "eps": 1e-08, "weight_decay": 0.1,
    "momentum": 0.95, "nesterov": true, "matrix_learning_rate": null, "groups": [],
    "groups[]": {"type": "inherit", "rare_from": null, "rare_learning_rate_scale": 1.0}
  },
  "schedule": {"type": "cosine", "warmup_steps": 20, "final_fraction": 0.1, "decay_fraction": 0.2},
  "training": {
    "steps": 300, "seed": 0, "precision": "float32", "checkpoint_activations": false, "clip_norm": 1.0,
    "threads": null, "device": "cpu", "log_every": 1,
    "validate_every": 100, "checkpoint_every": 100, "keep_last": 2, "initial_weights": ""
  },
  "parallel": {"optimizer": "replicated", "vocabulary": "off"},
  "observe": {
    "downstream": {"every": 0, "requests": "", "truncation": "request", "max_length": 0},
    "gradient_retention": {"every": 0, "tokens": 0, "rank_cutoff": null, "center_weight": false},
    "diagnostics": {
      "every": 0, "powers_of_two": false, "quality": false, "gradient_retention": false,
      "local_retention": false, "token_breakdown": false, "gradient_spectrum": false, "update_direction": false,
      "head_spectrum": false,
      "options": {
        "head_space": {"rank_cutoff": null, "center_weight": false},
        "gradient_spectrum": {"tokens": 4096, "exact_tokens": 32768, "sketch_gib": 1.0, "sketch_columns": null},
        "update_direction": {"tokens": 4096, "step_sizes": [0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0]},
        "local_retention": {"tokens": 256}
      }
    }
  }
})";

}  // namespace

Json pinned_defaults(const std::string& head_type) {
  static const Json all = Json::parse(kPinned);
  Json pinned = all;
  pinned["head"] = all["head"].value(head_type, Json::object());
  return pinned;
}

}  // namespace lmhead
