"""The plain PyTorch peer of `lmhead train`: a Llama-style decoder and an AdamW loop, as one would write them by hand."""
import json
import sys
import time

import torch
import torch.nn.functional as F
from torch import nn


class Block(nn.Module):
    def __init__(self, width, inner, heads):
        super().__init__()
        self.heads = heads
        self.input_layernorm = nn.RMSNorm(width, eps=1e-5)
        self.post_attention_layernorm = nn.RMSNorm(width, eps=1e-5)
        self.self_attn = nn.ModuleDict({f"{n}_proj": nn.Linear(width, width, bias=False) for n in "qkvo"})
        self.mlp = nn.ModuleDict(
            {
                "gate_proj": nn.Linear(width, inner, bias=False),
                "up_proj": nn.Linear(width, inner, bias=False),
                "down_proj": nn.Linear(inner, width, bias=False),
            }
        )

    def forward(self, x, cosine, sine):
        batch, length, width = x.shape
        h = self.input_layernorm(x)
        q, k, v = (
            self.self_attn[f"{n}_proj"](h).view(batch, length, self.heads, -1).transpose(1, 2) for n in "qkv"
        )
        q, k = rotate(q, cosine, sine), rotate(k, cosine, sine)
        h = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.self_attn["o_proj"](h.transpose(1, 2).reshape(batch, length, width))
        h = self.post_attention_layernorm(x)
        return x + self.mlp["down_proj"](F.silu(self.mlp["gate_proj"](h)) * self.mlp["up_proj"](h))


def rotate(x, cosine, sine):
    first, second = x.chunk(2, dim=-1)
    cosine, sine = cosine.to(x.dtype), sine.to(x.dtype)
    return torch.cat((first * cosine - second * sine, second * cosine + first * sine), dim=-1)


class Llama(nn.Module):
    def __init__(self, vocab, width, inner, layers, heads, length):
        super().__init__()
        self.model = nn.ModuleDict(
            {
                "embed_tokens": nn.Embedding(vocab, width),
                "layers": nn.ModuleList(Block(width, inner, heads) for _ in range(layers)),
                "norm": nn.RMSNorm(width, eps=1e-5),
            }
        )
        self.lm_head = nn.Linear(width, vocab, bias=False)
        head = width // heads
        angles = torch.outer(torch.arange(length).float(), 1 / 10000 ** (torch.arange(0, head, 2).float() / head))
        self.register_buffer("cosine", angles.cos(), persistent=False)
        self.register_buffer("sine", angles.sin(), persistent=False)
        for parameter in self.parameters():
            if parameter.dim() == 2:
                nn.init.normal_(parameter, std=0.02)

    def forward(self, tokens, targets):
        x = self.model["embed_tokens"](tokens)
        for block in self.model["layers"]:
            x = block(x, self.cosine, self.sine)
        logits = self.lm_head(self.model["norm"](x))
        return F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten())


def learning_rate(step, steps, peak, warmup=20, final=0.1):
    import math

    if step <= warmup:
        return peak * step / warmup
    progress = (step - warmup) / (steps - warmup)
    return peak * (final + (1 - final) * 0.5 * (1 + math.cos(math.pi * progress)))


def main(request):
    """Trains `steps` steps on one fixed batch; prints {"losses", "seconds"} a step as JSON."""
    from safetensors.torch import load_file

    torch.set_num_threads(request["threads"])
    shape = request["shape"]
    model = Llama(shape["vocab"], shape["width"], shape["inner"], shape["layers"], shape["heads"], shape["length"])
    model.load_state_dict(load_file(request["weights"]))
    device = torch.device(request.get("device", "cpu"))
    model.to(device)
    decayed = [p for p in model.parameters() if p.dim() == 2]
    plain = [p for p in model.parameters() if p.dim() < 2]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.1}, {"params": plain, "weight_decay": 0.0}],
        lr=1.0, betas=(0.9, 0.95), eps=1e-8, fused=True,
    )
    step_function = torch.compile(model) if request["compile"] else model
    ids = torch.tensor(request["tokens"], device=device).view(-1, shape["length"] + 1)
    tokens, targets = ids[:, :-1].contiguous(), ids[:, 1:].contiguous()
    losses, seconds = [], []
    for step in range(1, request["steps"] + 1):
        start = time.perf_counter()
        with torch.autocast(device.type, torch.bfloat16, enabled=request["precision"] == "bfloat16"):
            loss = step_function(tokens, targets)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, request["steps"], request["learning_rate"])
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(loss.item())
        seconds.append(time.perf_counter() - start)
    print(json.dumps({"losses": losses, "seconds": seconds}))


if __name__ == "__main__":
    main(json.loads(open(sys.argv[1]).read()))
