"""The architectures of GGUF that are families here: the configuration and the names of tensors that each amounts to."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy

from lmhead.command import RequestError
from lmhead.gguf.header import Header

Change = Callable[[numpy.ndarray, dict[str, Any]], numpy.ndarray]
LLAMA3_FACTORS = dict(low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=8192)


def transpose(weight: numpy.ndarray, config: dict[str, Any]) -> numpy.ndarray:
    return numpy.ascontiguousarray(weight.T)


def less_one(weight: numpy.ndarray, config: dict[str, Any]) -> numpy.ndarray:
    """GGUF has the norms of Gemma as they multiply, checkpoints less one."""
    return weight - weight.dtype.type(1)


def halves(heads: str) -> Change:
    """GGUF turns neighbouring elements of Llama's heads together, checkpoints those of two halves."""

    def change(weight: numpy.ndarray, config: dict[str, Any]) -> numpy.ndarray:
        rows, count = weight.shape[0], config[heads]
        if rows % (2 * count):
            raise RequestError(f"{heads} must divide the rows of queries and keys by an even number, got {count} and {rows}")
        return weight.reshape(count, rows // count // 2, 2, *weight.shape[1:]).swapaxes(1, 2).reshape(weight.shape)

    return change


BODY = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
BLOCK = {
    "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj", "attn_q_norm": "self_attn.q_norm", "attn_k_norm": "self_attn.k_norm",
    "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj",
}  # fmt: skip
BEFORE = {"attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm"}
AFTER = {"post_attention_norm": "post_attention_layernorm", "post_ffw_norm": "post_feedforward_layernorm"}
AROUND = {"attn_norm": "input_layernorm", "ffn_norm": "pre_feedforward_layernorm", **AFTER}


@dataclass(frozen=True)
class Architecture:
    """What one `general.architecture` is here; keys of `fields` stand behind it in the header, values in the configuration."""

    model_type: str
    body: dict[str, str] = field(default_factory=lambda: BODY)
    block: dict[str, str] = field(default_factory=dict)
    layer: str = "model.layers.{}."
    changes: dict[str, Change] = field(default_factory=dict)  # by the GGUF name without its block
    fields: dict[str, str] = field(default_factory=dict)
    fixed: dict[str, Any] = field(default_factory=dict)
    keys: dict[str, str] = field(default_factory=dict)  # the configuration's names of sizes that differ from Llama's


SIZES = {
    "context_length": "max_position_embeddings", "block_count": "num_hidden_layers", "embedding_length": "hidden_size",
    "feed_forward_length": "intermediate_size", "attention.head_count": "num_attention_heads",
}  # fmt: skip
ROTARY = {
    "attention.head_count_kv": "num_key_value_heads", "attention.layer_norm_rms_epsilon": "rms_norm_eps",
    "rope.freq_base": "rope_theta", "attention.key_length": "head_dim",
}  # fmt: skip
GEMMA_NORMS: dict[str, Change] = {name: less_one for name in ("attn_norm", "ffn_norm", "post_attention_norm", "post_ffw_norm", "output_norm",
                                           "attn_q_norm", "attn_k_norm")}  # fmt: skip
GEMMA = dict(hidden_activation="gelu_pytorch_tanh", tie_word_embeddings=True)
ARCHITECTURES = {
    "llama": Architecture("llama", block=BLOCK | BEFORE, fields=ROTARY,
                          changes={"attn_q": halves("num_attention_heads"), "attn_k": halves("num_key_value_heads")}),
    "qwen2": Architecture("qwen2", block=BLOCK | BEFORE, fields=ROTARY),
    "qwen3": Architecture("qwen3", block=BLOCK | BEFORE, fields=ROTARY),
    "olmo2": Architecture("olmo2", block=BLOCK | AFTER, fields=ROTARY),
    "gemma": Architecture("gemma", block=BLOCK | BEFORE, fields=ROTARY, changes=GEMMA_NORMS, fixed=GEMMA),
    "gemma2": Architecture("gemma2", block=BLOCK | AROUND, changes=GEMMA_NORMS, fixed=GEMMA, fields=ROTARY | {
        "attention.sliding_window": "sliding_window", "attn_logit_softcapping": "attn_logit_softcapping",
        "final_logit_softcapping": "final_logit_softcapping"}),
    "gemma3": Architecture("gemma3_text", block=BLOCK | AROUND, changes=GEMMA_NORMS, fixed=GEMMA, fields=ROTARY | {
        "attention.sliding_window": "sliding_window"}),
    "gpt2": Architecture(
        "gpt2", layer="transformer.h.{}.",
        body={"token_embd": "transformer.wte", "position_embd": "transformer.wpe", "output_norm": "transformer.ln_f", "output": "lm_head"},
        block={"attn_norm": "ln_1", "ffn_norm": "ln_2", "attn_qkv": "attn.c_attn", "attn_output": "attn.c_proj",
               "ffn_up": "mlp.c_fc", "ffn_down": "mlp.c_proj"},
        changes={name: transpose for name in ("attn_qkv", "attn_output", "ffn_up", "ffn_down")},
        fields={"attention.layer_norm_epsilon": "layer_norm_epsilon"},
        keys={"max_position_embeddings": "n_positions", "num_hidden_layers": "n_layer", "hidden_size": "n_embd",
              "intermediate_size": "n_inner", "num_attention_heads": "n_head"}),
}  # fmt: skip
OPTIONAL = {"attention.head_count_kv", "attention.key_length", "rope.freq_base", "attn_logit_softcapping", "final_logit_softcapping"}
LARGEST_GEMMA = {"gemma2": 46, "gemma3": 62}  # the 27B models scale queries by D / heads, all others by their width


def architecture_of(header: Header) -> tuple[str, Architecture]:
    """Raises RequestError that names the architecture where it is no family here."""
    name = header.fields.get("general.architecture")
    if not isinstance(name, str) or name not in ARCHITECTURES:
        raise RequestError(f"general.architecture must be one of {', '.join(ARCHITECTURES)}, got {name!r:.80}")
    return name, ARCHITECTURES[name]


def configuration(header: Header) -> dict[str, Any]:
    """The config.json of the model. Raises RequestError on what is missing and on what would be computed otherwise."""
    name, architecture = architecture_of(header)
    fields, tensors = header.fields, header.tensors

    def get(key: str) -> Any:
        value = fields.get(f"{name}.{key}")
        if value is not None and (isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value)):
            raise RequestError(f"{name}.{key} must be one number for all layers, got {value!r:.80}")
        return value

    config: dict[str, Any] = {"model_type": architecture.model_type, **architecture.fixed}
    for key, theirs in (SIZES | architecture.fields).items():
        value = get(key)
        if value is None and key not in OPTIONAL:
            raise RequestError(f"{name}.{key} must be there, got none")
        if value is not None:
            config[architecture.keys.get(theirs, theirs)] = value
    if "token_embd.weight" not in tensors:
        raise RequestError("the tensor token_embd.weight must be there, got none")
    config["vocab_size"] = tensors["token_embd.weight"].shape[0]
    config["tie_word_embeddings"] = "output.weight" not in tensors
    if get("expert_count"):
        raise RequestError(f"{name}.expert_count must be 0, got {get('expert_count')}: experts are not read from GGUF")
    if name == "gpt2":
        return _with_ends(config, fields)

    heads = config["num_attention_heads"]
    if not isinstance(heads, int) or heads < 1:
        raise RequestError(f"{name}.attention.head_count must be a count, got {heads!r:.80}")
    config.setdefault("num_key_value_heads", heads)
    config.setdefault("head_dim", config["hidden_size"] // heads)
    if get("rope.dimension_count") not in (None, config["head_dim"]):
        raise RequestError(f"{name}.rope.dimension_count must be the {config['head_dim']} elements of a head, "
                           f"got {get('rope.dimension_count')}")
    if any(part in tensors for part in ("blk.0.attn_output.bias", "blk.0.attn_q.bias")) and name != "qwen2":
        config["attention_bias"] = True
    if "blk.0.ffn_down.bias" in tensors:
        config["mlp_bias"] = True
    if name in LARGEST_GEMMA:
        largest = config["num_hidden_layers"] == LARGEST_GEMMA[name]
        config["query_pre_attn_scalar"] = config["hidden_size"] / heads if largest else config["head_dim"]
    scaling = _rotary_scaling(name, fields, get)
    if scaling:
        config["rope_scaling"] = scaling
    return _with_ends(config, fields)


def _with_ends(config: dict[str, Any], fields: dict[str, Any]) -> dict[str, Any]:
    for key in ("bos_token_id", "eos_token_id"):
        value = fields.get(f"tokenizer.ggml.{key}")
        if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < config["vocab_size"]:
            config[key] = value
    return config


def _rotary_scaling(name: str, fields: dict[str, Any], get: Callable[[str], Any]) -> dict[str, Any] | None:
    kind = fields.get(f"{name}.rope.scaling.type", "none")
    factor = get("rope.scaling.factor") or 1.0
    if kind not in ("none", "linear"):
        raise RequestError(f"{name}.rope.scaling.type must be none or linear, got {kind!r:.80}")
    return {"rope_type": "linear", "factor": float(factor)} if kind == "linear" and factor != 1 else None


def llama3_scaling(divisors: numpy.ndarray, config: dict[str, Any]) -> dict[str, Any]:
    """The scaling of Llama 3.1 that `rope_freqs.weight` [head_dim / 2] amounts to: what each frequency is divided by.

    Raises RequestError where it is another one.
    """
    factor = float(divisors.max(initial=1.0))
    steps = numpy.arange(0, config["head_dim"], 2, dtype=numpy.float64) / config["head_dim"]
    wavelengths = 2 * math.pi * float(config.get("rope_theta", 10000.0)) ** steps
    low, high = LLAMA3_FACTORS["low_freq_factor"], LLAMA3_FACTORS["high_freq_factor"]
    original = LLAMA3_FACTORS["original_max_position_embeddings"]
    ramp = numpy.clip((original / wavelengths - low) / (high - low), 0, 1)
    expected = 1 / ((1 - ramp) / factor + ramp)
    if divisors.shape != expected.shape or not numpy.allclose(divisors, expected, rtol=1e-3):
        raise RequestError("rope_freqs.weight must be the frequencies of Llama 3.1, got others")
    return {"rope_type": "llama3", "factor": factor, **LLAMA3_FACTORS}


def checkpoint_name(architecture: Architecture, name: str) -> tuple[str, Change | None]:
    """A tensor's name in a checkpoint, and what must be done to its values. Raises RequestError on one without a place."""
    match = re.fullmatch(r"(?:blk\.(\d{1,6})\.)?([a-z0-9_]+)\.(weight|bias)", name)
    if match:
        layer, part, kind = match.groups()
        known = architecture.body if layer is None else architecture.block
        if part in known:
            prefix = "" if layer is None else architecture.layer.format(int(layer))
            change = architecture.changes.get(part)
            return f"{prefix}{known[part]}.{kind}", None if kind == "bias" and change is transpose else change
    raise RequestError(f"every tensor must have a place in {architecture.model_type}, got {name!r:.80}")
