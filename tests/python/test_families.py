"""Every native family against transformers: tiny random checkpoints, float32 logits and features within 1e-5, the loss within 1e-6."""
import os
import pathlib
import subprocess

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
from safetensors.torch import save_file  # noqa: E402

ROOT = pathlib.Path(__file__).resolve().parents[2]
LENGTH, VOCAB = 20, 37

SIZES = dict(vocab_size=VOCAB, hidden_size=24, intermediate_size=40, num_hidden_layers=3, num_attention_heads=4,
             num_key_value_heads=2, max_position_embeddings=64)
LLAMA3 = dict(rope_type="llama3", rope_theta=100.0, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
              original_max_position_embeddings=16)
YARN = dict(rope_type="yarn", rope_theta=100.0, factor=4.0, original_max_position_embeddings=16)
DYNAMIC = dict(rope_type="dynamic", rope_theta=100.0, factor=2.5)
LONGROPE = dict(rope_type="longrope", rope_theta=100.0, short_factor=[1.0, 1.1, 1.3, 2.0], long_factor=[1.5, 2.0, 3.0, 5.5])
GEMMA = dict(SIZES, head_dim=8, tie_word_embeddings=True)
WINDOWS = dict(sliding_window=5, query_pre_attn_scalar=12)
EXPERTS = dict(num_experts=5, num_experts_per_tok=2, moe_intermediate_size=16)
NEOX = {key: value for key, value in SIZES.items() if key != "num_key_value_heads"}

# Case name: (configuration class, its arguments). Each differs from another in one thing that could be got wrong.
CASES = {
    "gpt2": ("GPT2Config", dict(vocab_size=VOCAB, n_embd=24, n_layer=3, n_head=4, n_positions=32)),
    "gpt2_relu_unscaled": ("GPT2Config", dict(vocab_size=VOCAB, n_embd=24, n_layer=2, n_head=4, n_positions=32, n_inner=20,
                                              activation_function="relu", scale_attn_weights=False)),
    "gpt2_untied": ("GPT2Config", dict(vocab_size=VOCAB, n_embd=24, n_layer=2, n_head=3, n_positions=32,
                                       tie_word_embeddings=False)),
    "neox_parallel": ("GPTNeoXConfig", dict(NEOX, hidden_size=32, rotary_pct=0.25)),
    "neox_sequential": ("GPTNeoXConfig", dict(NEOX, use_parallel_residual=False, rotary_pct=1.0, rotary_emb_base=500)),
    "neox_no_attention_bias": ("GPTNeoXConfig", dict(NEOX, hidden_size=32, attention_bias=False)),
    "llama": ("LlamaConfig", SIZES),
    "llama_full_heads_tied": ("LlamaConfig", dict(SIZES, num_key_value_heads=4, tie_word_embeddings=True)),
    "llama_biases": ("LlamaConfig", dict(SIZES, attention_bias=True, mlp_bias=True, head_dim=10)),
    "llama3_scaling": ("LlamaConfig", dict(SIZES, head_dim=16, rope_parameters=LLAMA3)),
    "llama_linear_scaling": ("LlamaConfig", dict(SIZES, rope_parameters=dict(rope_type="linear", factor=4.0,
                                                                             rope_theta=10000.0))),
    "llama_yarn": ("LlamaConfig", dict(SIZES, head_dim=16, rope_parameters=dict(YARN))),
    "llama_yarn_fractions": ("LlamaConfig", dict(SIZES, head_dim=16, rope_parameters=dict(YARN, truncate=False, beta_fast=4,
                                                                                         beta_slow=0.5, attention_factor=1.3))),
    "llama_yarn_magnitudes": ("LlamaConfig", dict(SIZES, head_dim=16, rope_parameters=dict(YARN, factor=None, mscale=1.4,
                                                                                          mscale_all_dim=0.7))),
    "qwen2_yarn_of_the_hub": ("Qwen2Config", dict(SIZES, rope_theta=100.0, rope_scaling=dict(
        type="yarn", factor=4.0, original_max_position_embeddings=8))),
    "llama_dynamic_within": ("LlamaConfig", dict(SIZES, rope_parameters=DYNAMIC)),
    "llama_dynamic_beyond": ("LlamaConfig", dict(SIZES, rope_parameters=DYNAMIC, max_position_embeddings=LENGTH - 7)),
    "llama_longrope_within": ("LlamaConfig", dict(SIZES, head_dim=8, rope_parameters=dict(
        LONGROPE, original_max_position_embeddings=LENGTH))),
    "llama_longrope_beyond": ("LlamaConfig", dict(SIZES, head_dim=8, rope_parameters=dict(
        LONGROPE, original_max_position_embeddings=LENGTH - 1, factor=3.0))),
    "llama_longrope_attention_factor": ("LlamaConfig", dict(SIZES, head_dim=8, rope_parameters=dict(
        LONGROPE, original_max_position_embeddings=8, attention_factor=0.9))),
    # Whole heads are rotated all the same.
    "llama_partial": ("LlamaConfig", dict(SIZES, head_dim=8, partial_rotary_factor=0.5)),
    "qwen3_partial": ("Qwen3Config", dict(SIZES, head_dim=8, rope_parameters=dict(
        rope_type="default", rope_theta=100.0, partial_rotary_factor=0.25))),
    "mistral_window": ("MistralConfig", dict(SIZES, sliding_window=6)),
    "mistral": ("MistralConfig", dict(SIZES, sliding_window=None)),
    "qwen2": ("Qwen2Config", SIZES),
    "qwen2_windows": ("Qwen2Config", dict(SIZES, use_sliding_window=True, sliding_window=4, max_window_layers=1)),
    "qwen2_windows_everywhere": ("Qwen2Config", dict(SIZES, use_sliding_window=True, sliding_window=4,
                                                     max_window_layers=0)),
    "qwen3": ("Qwen3Config", dict(SIZES, head_dim=8, tie_word_embeddings=True)),
    "olmo2": ("Olmo2Config", SIZES),
    "gemma": ("GemmaConfig", GEMMA),
    "gemma2": ("Gemma2Config", dict(GEMMA, **WINDOWS)),
    "gemma2_uncapped": ("Gemma2Config", dict(GEMMA, **WINDOWS, attn_logit_softcapping=None, final_logit_softcapping=None)),
    "gemma3": ("Gemma3TextConfig", dict(GEMMA, **WINDOWS, num_hidden_layers=7)),
    "gemma3_scaled_capped": ("Gemma3TextConfig", dict(GEMMA, **WINDOWS, final_logit_softcapping=3.0,
                                                      layer_types=["full_attention", "sliding_attention", "full_attention"],
                                                      rope_scaling=dict(rope_type="linear", factor=8.0))),
    "mixtral": ("MixtralConfig", dict(SIZES, num_local_experts=4)),
    "mixtral_window": ("MixtralConfig", dict(SIZES, num_local_experts=3, num_experts_per_tok=1, sliding_window=6, head_dim=10)),
    "mixtral_one_expert": ("MixtralConfig", dict(SIZES, num_local_experts=1, num_experts_per_tok=1)),
    "qwen3_moe": ("Qwen3MoeConfig", dict(SIZES, **EXPERTS, norm_topk_prob=True, tie_word_embeddings=True)),
    "qwen3_moe_mixed": ("Qwen3MoeConfig", dict(SIZES, **EXPERTS, head_dim=8, mlp_only_layers=[1], attention_bias=True)),
    "qwen3_moe_windows": ("Qwen3MoeConfig", dict(SIZES, **EXPERTS, decoder_sparse_step=2, use_sliding_window=True, sliding_window=4)),
    "phi3": ("Phi3Config", dict(SIZES, pad_token_id=None)),
    "phi3_window_tied": ("Phi3Config", dict(SIZES, pad_token_id=None, sliding_window=6, tie_word_embeddings=True)),
    "phi3_longrope": ("Phi3Config", dict(SIZES, hidden_size=64, pad_token_id=None, original_max_position_embeddings=16,
                                         partial_rotary_factor=0.5, rope_parameters=dict(LONGROPE))),
    "phi3_su_within": ("Phi3Config", dict(SIZES, hidden_size=32, pad_token_id=None, original_max_position_embeddings=32, rope_theta=50.0,
                                          rope_scaling=dict(type="su", original_max_position_embeddings=32, short_factor=[1.0, 1.1, 1.3, 2.0],
                                                            long_factor=[1.5, 2.0, 3.0, 5.5]))),
    "granite": ("GraniteConfig", dict(SIZES, embedding_multiplier=3.0, residual_multiplier=0.4, attention_multiplier=0.3,
                                      logits_scaling=2.5, attention_bias=True, mlp_bias=True, tie_word_embeddings=True)),
    "granite_plain": ("GraniteConfig", SIZES),
    "cohere2": ("Cohere2Config", dict(SIZES, num_hidden_layers=5, sliding_window=5, logit_scale=0.3)),
    "cohere2_biases": ("Cohere2Config", dict(SIZES, hidden_size=32, attention_bias=True, tie_word_embeddings=False, sliding_window=7,
                                             layer_types=["full_attention", "sliding_attention", "full_attention"])),
    "stablelm": ("StableLmConfig", dict(SIZES, hidden_size=32)),
    "stablelm_norms": ("StableLmConfig", dict(SIZES, partial_rotary_factor=1.0, use_qkv_bias=True, qk_layernorm=True)),
    "stablelm_parallel": ("StableLmConfig", dict(SIZES, hidden_size=32, qk_layernorm=True, use_parallel_residual=True)),
    "nemotron": ("NemotronConfig", dict(SIZES, hidden_size=32)),
    "nemotron_biases": ("NemotronConfig", dict(SIZES, hidden_size=32, head_dim=12, attention_bias=True, mlp_bias=True,
                                               partial_rotary_factor=1.0, hidden_act="gelu")),
}


def built_tests() -> pathlib.Path:
    built = ROOT / "build" / "release" / "bin" / "test_models"
    if not built.exists():
        pytest.skip("test_models is not built")
    return built


def make_checkpoint(folder: pathlib.Path, config_class: str, arguments: dict, **saving) -> None:
    """Writes a random model and what transformers computes from it."""
    torch.manual_seed(sum(map(ord, folder.name)))
    config = getattr(transformers, config_class)(attn_implementation="eager", **arguments)
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # away from ones and zeros, large enough to tell formulas apart
            parameter.add_(0.3 * torch.randn_like(parameter))
    model.save_pretrained(folder, **saving)
    write_parity(folder, model, torch.randint(VOCAB, (2, LENGTH)))


def write_parity(folder: pathlib.Path, model, tokens) -> None:
    """What the C++ test compares with: the tokens, and what transformers computes from them."""
    with torch.no_grad():
        output = model(tokens, output_hidden_states=True)
    loss = torch.nn.functional.cross_entropy(output.logits.double().flatten(0, 1), tokens.roll(-1).flatten())
    save_file({"loss": loss, "tokens": tokens, "logits": output.logits.contiguous(), "hidden": output.hidden_states[-1].contiguous()},
              folder / "parity.safetensors")


def check(folders) -> None:
    """Lets the C++ test read every folder in one process; its messages name the folder."""
    environment = dict(os.environ, LMHEAD_PARITY_FOLDERS=":".join(map(str, folders)))
    run = subprocess.run([built_tests(), "--gtest_filter=PretrainedModel.AgreesWithTheFoldersGiven", "--gtest_brief=1"],
                         env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr


def test_families_agree_with_transformers(tmp_path):
    built_tests()
    for name, case in CASES.items():
        make_checkpoint(tmp_path / name, *case)
    make_checkpoint(tmp_path / "sharded", *CASES["llama"], max_shard_size="20KB")
    assert len(list((tmp_path / "sharded").glob("model-*.safetensors"))) > 1
    check([*(tmp_path / name for name in CASES), tmp_path / "sharded"])


@pytest.mark.parametrize("name", ["mixtral", "qwen3_moe_mixed", "cohere2", "phi3_longrope", "granite", "stablelm_norms", "nemotron"])
def test_sampling_goes_on_as_transformers_does(tmp_path, name):
    runner = ROOT / "build" / "release" / "bin" / "lmhead"
    if not runner.exists():
        pytest.skip("lmhead is not built")
    make_checkpoint(tmp_path / name, *CASES[name])
    prompt = [1, 8, 30, 26, 2]
    sampled = subprocess.run([runner, "sample", tmp_path / name, "--prompt-ids", ",".join(map(str, prompt)), "--temperature", "0", "--ids",
                              "--max-new-tokens", "15"], capture_output=True, text=True)
    assert sampled.returncode == 0, sampled.stderr
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / name).eval()
    ends = {model.config.eos_token_id}
    ids = list(prompt)
    while len(ids) < len(prompt) + 15 and not (len(ids) > len(prompt) and ids[-1] in ends):
        with torch.no_grad():  # without a cache: frequencies are those of the whole sequence
            ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
    assert sampled.stdout.strip().split(",") == list(map(str, ids[len(prompt):]))


def test_a_wrong_logit_is_noticed(tmp_path):
    make_checkpoint(tmp_path / "wrong", *CASES["llama"])
    config = tmp_path / "wrong" / "config.json"
    config.write_text(config.read_text().replace('"rms_norm_eps": 1e-06', '"rms_norm_eps": 1e-02'))
    with pytest.raises(AssertionError, match="wrong"):
        check([tmp_path / "wrong"])
