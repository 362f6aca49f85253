"""What a measurement's page says of its figures in words."""

from __future__ import annotations

from typing import Any

from lmhead.formats import count, percent
from lmhead.json_trees import lookup

FEW_DOCUMENTS = 20


def short_name(model: dict[str, Any]) -> str:
    """The last part of its path."""
    return model["model"].rstrip("/").rpartition("/")[2] or model["model"]


def one_model(model: dict[str, Any]) -> str:
    ratio, null = (lookup(model, f"gradient_retention.{key}") for key in ("destroyed_ratio", "null_destroyed_ratio"))
    if ratio is None or null is None:
        return f"{short_name(model)} was measured on {count(model.get('tokens', 0), 'token')}."
    kept = lookup(model, "gradient_retention.retained_energy")
    if null == 0 and ratio == 0:
        return f"The head of {short_name(model)} spans its whole vocabulary: nothing of the logit gradient is destroyed."
    side = "more than" if ratio < null else "less than"
    return (f"The head of {short_name(model)} lets {percent(kept)} of the logit gradient's energy through: the destroyed ratio "
            f"is {ratio:.4f}, where a random subspace of the same rank gives {null:.4f}; so it keeps {side} chance would.")


def most(model: dict[str, Any], key: str) -> Any:
    """A figure of the spectrum, or where it is known between bounds alone, the upper one."""
    bounds = lookup(model, f"gradient_spectrum.bounds.{key}")
    return bounds[1] if isinstance(bounds, list) and len(bounds) == 2 else lookup(model, f"gradient_spectrum.{key}")


def summary(models: list[dict[str, Any]]) -> list[str]:
    lines = [one_model(model) for model in models[:4]]
    for model in models[:4]:
        best, cross = (most(model, key) for key in ("avoidable_energy", "cross_validated_avoidable_energy"))
        if best is not None and cross is not None:
            lines.append(f"{short_name(model)}: another output space of the same width could keep at most {percent(max(best, 0))} "
                         f"more of the energy of these tokens, {percent(max(cross, 0))} on tokens that it was not fitted to.")
    for model in models[:4]:
        left_out = lookup(model, "left_out.diagnostics")
        if isinstance(left_out, list) and left_out:
            lines.append(f"{short_name(model)}: {', '.join(map(str, left_out))} left out, since {lookup(model, 'left_out.why')}.")
    sketched = [model for model in models if lookup(model, "gradient_spectrum.method") == "randomized"]
    if sketched:
        lines.append(f"The spectrum of {', '.join(map(short_name, sketched[:4]))} was seen through a random sketch: each of its "
                     "figures is certain to lie between two bounds, of which the tables show the one that the sketch reached.")
    few = [model for model in models if (lookup(model, "token_breakdown.standard_error.documents") or 0) < FEW_DOCUMENTS]
    if few:
        lines.append(f"Fewer than {FEW_DOCUMENTS} documents are known for {', '.join(map(short_name, few[:4]))}: standard errors, "
                     "where there are any, are too small there.")
    short = [model for model in models if (lookup(model, "gradient_spectrum.tokens") or 1 << 60)
             < 2 * (model.get("hidden_size") or 0)]
    if short:
        lines.append("The spectrum is of fewer than 2 D tokens: its avoidable energy means little.")
    return lines
