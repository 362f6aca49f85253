#!/usr/bin/env python3
"""Preference and policy losses on per-token log-probabilities that need no logits.

    python examples/preference.py     DPO, then GRPO, of a tiny model: what is preferred becomes likelier

`log_probabilities(model, ids, mask)` is the whole of it: the log-probability of every token that counts, at the memory of a tile of
logits. DPO (Rafailov et al. 2023, arXiv 2305.18290) and GRPO (Shao et al. 2024, arXiv 2402.03300) are a few lines on top.
"""
import copy

import torch
from torch import Tensor

import lmhead


def log_probabilities(model: torch.nn.Module, ids: Tensor, mask: Tensor, temperature: float = 1.0) -> Tensor:
    """log p(ids[:, t] | ids[:, :t]) where `mask` counts, else 0: [N, T - 1]. Entry t - 1 is that of token t.

    For models of `transformers` whose head is a plain linear layer on their last hidden state.
    """
    hidden = model.base_model(input_ids=ids).last_hidden_state[:, :-1]
    head = model.get_output_embeddings()
    targets = ids[:, 1:].masked_fill(~mask[:, 1:], -100)
    return lmhead.linear_token_log_probabilities(
        hidden, head.weight, targets, linear_bias=head.bias, temperature=temperature if temperature != 1 else None
    )


def dpo_loss(chosen: Tensor, rejected: Tensor, reference_chosen: Tensor, reference_rejected: Tensor, beta: float = 0.1) -> Tensor:
    """-log sigma(beta (margin of the policy - margin of the reference)), the mean over pairs of sequences' log-probabilities [N]."""
    margin = (chosen - rejected) - (reference_chosen - reference_rejected)
    return -torch.nn.functional.logsigmoid(beta * margin).mean()


def grpo_loss(
    new: Tensor, old: Tensor, reference: Tensor, mask: Tensor, rewards: Tensor, clip: float = 0.2, beta: float = 0.04
) -> Tensor:
    """The clipped policy loss of one group of answers, per token, with the penalty KL(policy || reference).

    `new`, `old`, `reference` [G, T]: log-probabilities; `mask` [G, T]: the answer's tokens; `rewards` [G].
    """
    advantages = ((rewards - rewards.mean()) / (rewards.std() + 1e-6))[:, None]
    ratio = (new - old).exp()
    gain = torch.minimum(ratio * advantages, ratio.clamp(1 - clip, 1 + clip) * advantages)
    penalty = (reference - new).exp() - (reference - new) - 1
    loss = ((penalty * beta - gain) * mask).sum(-1) / mask.sum(-1)
    return loss.mean()


def demo_model() -> torch.nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    sizes = dict(vocab_size=1000, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2)
    return LlamaForCausalLM(LlamaConfig(**sizes, use_cache=False))


def train_by_dpo(steps: int = 30) -> list[float]:
    """The loss at each step: answers of even ids are preferred to answers of odd ids."""
    model = demo_model()
    reference = copy.deepcopy(model).requires_grad_(False)
    prompts = torch.randint(1000, (16, 8))
    chosen = torch.cat([prompts, 2 * torch.randint(500, (16, 8))], 1)
    rejected = torch.cat([prompts, 2 * torch.randint(500, (16, 8)) + 1], 1)
    mask = (torch.arange(16) >= 8).expand(16, -1)

    def margins() -> tuple[Tensor, ...]:
        both = [log_probabilities(model, ids, mask).sum(-1) for ids in (chosen, rejected)]
        with torch.no_grad():
            theirs = [log_probabilities(reference, ids, mask).sum(-1) for ids in (chosen, rejected)]
        return (*both, *theirs)

    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    losses = []
    for _ in range(steps):
        loss = dpo_loss(*margins())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def train_by_grpo(steps: int = 30) -> list[float]:
    """The mean reward of sampled answers, the share of even ids in them, at each step."""
    model = demo_model()
    reference = copy.deepcopy(model).requires_grad_(False)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    prompt = torch.randint(1000, (1, 8))
    rewards_seen = []
    for _ in range(steps):
        ids = prompt.expand(32, -1)
        with torch.no_grad():
            for _ in range(8):
                ids = torch.cat([ids, torch.multinomial(model(ids).logits[:, -1].softmax(-1), 1)], 1)
        rewards = (ids[:, 8:] % 2 == 0).float().mean(-1)
        mask = (torch.arange(16) >= 8).expand(32, -1)
        with torch.no_grad():
            theirs = log_probabilities(reference, ids, mask)
        new = log_probabilities(model, ids, mask)
        loss = grpo_loss(new, new.detach(), theirs, mask[:, 1:], rewards)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        rewards_seen.append(rewards.mean().item())
    return rewards_seen


def main() -> None:
    losses = train_by_dpo()
    print(f"DPO   loss {losses[0]:.3f} (log 2 before anything is learned) -> {losses[-1]:.3f}")
    rewards = train_by_grpo()
    print(f"GRPO  share of even ids {sum(rewards[:3]) / 3:.2f} -> {sum(rewards[-3:]) / 3:.2f}")


if __name__ == "__main__":
    main()
