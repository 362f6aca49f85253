"""Tiny GGUF files, written with the package gguf from random models of transformers. Imported by name."""

import numpy
import pytest

gguf = pytest.importorskip("gguf")
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

VOCAB = 64
SIZES = dict(vocab_size=VOCAB, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
             num_key_value_heads=2, max_position_embeddings=64)
GEMMA = dict(SIZES, head_dim=8, tie_word_embeddings=True, query_pre_attn_scalar=8, sliding_window=16, num_hidden_layers=7)
# Name in GGUF: configuration class, its arguments, keys of the header beyond those of every architecture.
CASES = {
    "llama": ("LlamaConfig", dict(SIZES, rope_parameters=dict(rope_type="default", rope_theta=500.0)), {}),
    "qwen2": ("Qwen2Config", dict(SIZES, tie_word_embeddings=True), {}),
    "qwen3": ("Qwen3Config", dict(SIZES, head_dim=128), {}),
    "olmo2": ("Olmo2Config", dict(SIZES), {}),
    "gemma": ("GemmaConfig", dict(GEMMA), {}),
    "gemma2": ("Gemma2Config", dict(GEMMA), {"attention.sliding_window": 16, "attn_logit_softcapping": 50.0,
                                             "final_logit_softcapping": 30.0}),
    "gemma3": ("Gemma3TextConfig", dict(GEMMA), {"attention.sliding_window": 16}),
    "gpt2": ("GPT2Config", dict(vocab_size=VOCAB, n_embd=32, n_layer=2, n_head=4, n_positions=64), {}),
}


def make_model(name):
    class_name, arguments, _ = CASES[name]
    torch.manual_seed(5)
    config = getattr(transformers, class_name)(attn_implementation="eager", **arguments)
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model


def turned(weight, heads):
    """As llama.cpp's converter stores queries and keys of Llama: the halves of a head interleaved."""
    return weight.reshape(heads, 2, weight.shape[0] // heads // 2, *weight.shape[1:]).swapaxes(1, 2).reshape(weight.shape)


def tensors_of(name, model):
    """The model's tensors under GGUF's names and conventions."""
    config = model.config
    names = gguf.get_tensor_name_map({value: key for key, value in gguf.MODEL_ARCH_NAMES.items()}[name], config.num_hidden_layers)
    found = {}
    for theirs, value in model.state_dict().items():
        if theirs == "lm_head.weight" and config.tie_word_embeddings:
            continue
        value = value.numpy()
        if name == "llama" and ".q_proj." in theirs:
            value = turned(value, config.num_attention_heads)
        if name == "llama" and ".k_proj." in theirs:
            value = turned(value, config.num_key_value_heads)
        if name.startswith("gemma") and "norm" in theirs:
            value = value + 1
        if name == "gpt2" and value.ndim == 2 and ".h." in theirs:
            value = value.T
        found[names.get_name(theirs, try_suffixes=(".weight", ".bias"))] = numpy.ascontiguousarray(value)
    return found


def write(path, name, model, kind="F32", vocabulary=None, change=lambda tensors: tensors, **more):
    """A GGUF file of a model; `vocabulary` adds the fields of a tokenizer, `change` replaces tensors."""
    config = model.config
    writer = gguf.GGUFWriter(str(path), name)
    writer.add_vocab_size(VOCAB)
    writer.add_context_length(64)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(getattr(config, "intermediate_size", None) or 4 * config.hidden_size)
    writer.add_head_count(config.num_attention_heads)
    if name == "gpt2":
        writer.add_layer_norm_eps(config.layer_norm_epsilon)
    else:
        writer.add_head_count_kv(config.num_key_value_heads)
        writer.add_layer_norm_rms_eps(config.rms_norm_eps)
        parameters = config.rope_parameters
        writer.add_rope_freq_base(parameters.get("full_attention", parameters)["rope_theta"])
        writer.add_key_length(config.head_dim if getattr(config, "head_dim", None) else config.hidden_size // config.num_attention_heads)
        if name == "llama":
            writer.add_rope_dimension_count(config.hidden_size // config.num_attention_heads)
    for key, value in (CASES[name][2] | more).items():
        add = writer.add_float32 if isinstance(value, float) else writer.add_string if isinstance(value, str) else writer.add_uint32
        add(f"{name}.{key}", value)
    if vocabulary:
        vocabulary(writer)
    quantised = gguf.GGMLQuantizationType[kind]
    for tensor, value in change(tensors_of(name, model)).items():
        if value.ndim == 2 and kind != "F32":
            writer.add_tensor(tensor, gguf.quants.quantize(value, quantised), raw_dtype=quantised)
        else:
            writer.add_tensor(tensor, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
