#!/usr/bin/env python3
"""Puts any head of lmhead on a causal language model of `transformers`.

    python examples/heads_in_transformers.py [HEAD ...]     tiny models, each trained for some steps with every head named

`use_head(model, "mixture_of_softmaxes", components=4)` is all that a program needs, `Trainer` included: from then on `model(**batch)`
with labels, in training mode, gives the head's own loss and forms no logits. Evaluation and generation get the head's logits; heads
that look at the context see the whole of it at every step, so they generate without a cache.
"""
import functools
import sys
import types

import torch
from transformers.modeling_outputs import CausalLMOutput

import lmhead.heads


def blocks_of(model: torch.nn.Module) -> torch.nn.ModuleList:
    """The blocks of the body, whatever the family calls them."""
    count = model.config.get_text_config().num_hidden_layers
    for module in model.base_model.modules():
        if isinstance(module, torch.nn.ModuleList) and len(module) == count:
            return module
    raise TypeError(f"[use_head] the body must have a list of its {count} blocks, got none")


def use_head(model: torch.nn.Module, name: str, steps: int = 0, **options) -> torch.nn.Module:
    """Replaces this model's head, in place, by one with fresh values.

    `steps` is how many passes training will make, for heads that draw or have a schedule. Padding belongs on the right. Not for models
    that add terms of their own to the loss, as mixtures of experts do for their router.
    """
    config, forward = model.config.get_text_config(), type(model).forward
    head = lmhead.heads.make(
        name, config.hidden_size, config.vocab_size, num_hidden_layers=config.num_hidden_layers,
        initializer_range=config.initializer_range, dtype=model.dtype, **options,
    )  # fmt: skip
    config.tie_word_embeddings = model.config.tie_word_embeddings = False
    model.set_output_embeddings(head)
    needs, blocks = head.needs, blocks_of(model)
    sees_context = needs.tokens or bool(needs.layers)
    if sees_context:
        config.use_cache = model.generation_config.use_cache = False
    passes = 0

    def run_body(self, input_ids, inputs):
        """Features, and what else the head is given."""
        layers = [None] * len(needs.layers)

        def keep(place, _module, _inputs, output):
            layers[place] = output[0] if isinstance(output, tuple) else output

        hooks = [blocks[layer].register_forward_hook(functools.partial(keep, place)) for place, layer in enumerate(needs.layers)]
        try:
            hidden = self.base_model(input_ids=input_ids, **inputs).last_hidden_state
        finally:
            for hook in hooks:
                hook.remove()
        return hidden, {"tokens": input_ids, "layers": layers}

    # `wraps` leaves the signature, in which Trainer looks for the arguments that it may pass.
    @functools.wraps(forward)
    def with_head(self, input_ids=None, *, labels=None, num_items_in_batch=None, logits_to_keep=0, **inputs):
        nonlocal passes
        if labels is None or not self.training:
            if not sees_context:  # the family's own way, which asks the head for logits
                return forward(self, input_ids=input_ids, labels=labels, logits_to_keep=logits_to_keep, **inputs)
            if inputs.get("past_key_values") is not None or inputs.pop("use_cache", False):
                raise TypeError(f"[use_head] {name} must see the whole context: generate(..., use_cache=False)")
            hidden, given = run_body(self, input_ids, inputs)
            logits = self.get_output_embeddings()(hidden, **given)
            loss = None if labels is None else self.loss_function(logits=logits, labels=labels, vocab_size=config.vocab_size)
            return CausalLMOutput(loss=loss, logits=logits[:, -logits_to_keep:] if logits_to_keep else logits)
        passes += 1
        hidden, given = run_body(self, input_ids, inputs)
        # The token at t is predicted from the positions before it; the last position has no target.
        targets = torch.nn.functional.pad(labels[:, 1:], (0, 1), value=-100)
        loss = self.get_output_embeddings().loss(
            hidden, targets, step=min(passes, steps), steps=steps, reduction="mean" if num_items_in_batch is None else "sum", **given
        )  # fmt: skip
        # Under gradient accumulation Trainer names the tokens of all the batches that make one step.
        return CausalLMOutput(loss=loss if num_items_in_batch is None else loss / num_items_in_batch)

    model.forward = types.MethodType(with_head, model)
    return model


def tiny_models() -> dict[str, torch.nn.Module]:
    """Random models of two families."""
    from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

    llama = LlamaConfig(vocab_size=500, hidden_size=32, intermediate_size=64, num_hidden_layers=4, num_attention_heads=4)
    gpt2 = GPT2Config(vocab_size=500, n_embd=32, n_layer=4, n_head=4, n_positions=64, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0)
    return {"Llama": LlamaForCausalLM(llama), "GPT-2": GPT2LMHeadModel(gpt2)}


def train(model: torch.nn.Module, steps: int = 40) -> list[float]:
    """Losses in evaluation before and after some steps on a text in which every word tells the next."""
    ids = (torch.arange(33) * 7 + torch.arange(8).unsqueeze(1) * 31) % 500
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    losses = []
    for step in range(1, steps + 1):
        if step in (1, steps):
            with torch.no_grad():
                losses.append(model.eval()(input_ids=ids, labels=ids).loss.item())
        optimizer.zero_grad()
        model.train()(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
    return losses


def main() -> None:
    for name in sys.argv[1:] or ["linear", "low_rank"]:
        torch.manual_seed(0)
        for family, model in tiny_models().items():
            first, last = train(use_head(model, name, steps=40))
            print(f"{family:8} {name:24} loss {first:.3f} -> {last:.3f}")


if __name__ == "__main__":
    main()
