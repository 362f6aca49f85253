#!/usr/bin/env python3
"""Trains a causal language model of `transformers` without its logits ever existing.

    python examples/patch_transformers.py     a tiny model: loss and gradient beside those of the unpatched model

`train_without_logits(model)` is all that a program needs, `Trainer` included: from then on `model(**batch)` with labels, in training
mode, gives the loss through `lmhead.linear_cross_entropy`. Evaluation and generation go the usual way, with logits.
"""
import functools
import types

import torch
from transformers.modeling_outputs import CausalLMOutput

import lmhead


def linear_head(model: torch.nn.Module) -> torch.nn.Linear:
    """The head, where all that it does is to multiply by its weight."""
    head = model.get_output_embeddings()
    if isinstance(head, torch.nn.Linear) and getattr(head.forward, "__func__", None) is torch.nn.Linear.forward:
        return head
    raise TypeError(
        f"[train_without_logits] the head must be a Linear layer and nothing more, got {type(head).__module__}."
        f"{type(head).__name__}; leave it out of an adapter's target_modules, or train with logits"
    )


def train_without_logits(model: torch.nn.Module) -> torch.nn.Module:
    """Patches this model, in place, whose head is a linear map (with a soft-cap or scale) of the last hidden state.

    Not for models that add terms of their own to the loss, as mixtures of experts do for their router.
    """
    linear_head(model)
    forward = type(model).forward
    config = model.config.get_text_config()
    softcap = getattr(config, "final_logit_softcapping", None) or 0.0
    scale = (getattr(config, "logit_scale", None) or 1.0) / (getattr(config, "logits_scaling", None) or 1.0)

    # `wraps` leaves the signature, in which Trainer looks for the arguments that it may pass.
    @functools.wraps(forward)
    def loss_without_logits(self, input_ids=None, *, labels=None, num_items_in_batch=None, **inputs):
        if labels is None or not self.training:
            return forward(self, input_ids=input_ids, labels=labels, num_items_in_batch=num_items_in_batch, **inputs)
        hidden = self.base_model(input_ids=input_ids, **inputs).last_hidden_state
        head = linear_head(self)  # looked at each time: adapters and others put layers of theirs in its place
        # The token at t is predicted from the positions before it; the last position has no target.
        targets = torch.nn.functional.pad(labels[:, 1:], (0, 1), value=-100)
        loss = lmhead.linear_cross_entropy(
            hidden, head.weight, targets.to(hidden.device), linear_bias=head.bias, logit_scale=scale, logit_softcap=softcap,
            reduction="mean" if num_items_in_batch is None else "sum",
        )  # fmt: skip
        # Under gradient accumulation Trainer names the tokens of all the batches that make one step.
        return CausalLMOutput(loss=loss if num_items_in_batch is None else loss / num_items_in_batch)

    model.forward = types.MethodType(loss_without_logits, model)
    return model


def main() -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(vocab_size=5000, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4)
    ).train()
    ids = torch.randint(5000, (4, 65))
    for name in ("with logits", "without"):
        if name == "without":
            train_without_logits(model)
        model.zero_grad()
        loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        norm = torch.nn.utils.get_total_norm([parameter.grad for parameter in model.parameters()])
        print(f"{name:12} loss {loss.item():.6f}   gradient norm {norm.item():.6f}")


if __name__ == "__main__":
    main()
