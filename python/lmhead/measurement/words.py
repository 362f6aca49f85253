"""What a measurement's page says in words: the summary, the formulae, what may and may not be concluded."""

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


FORMULAE = """<section id="formulae"><h2>Formulae</h2>
<p>For token t: logits z = W h, probabilities p = softmax(z), target y (one-hot), logit gradient d = p − y (times the slope of
a soft-cap where there is one). G has the rows d of all N tokens. All that the backbone receives is G W; so it never sees the
part of G outside the column space of W. P = W (WᵀW)⁺ Wᵀ is the orthogonal projection on it.</p>
<ul>
<li><code>destroyed_ratio</code> r = ‖G (I − P)‖ / ‖G‖, a ratio of norms; <code>retained_energy</code> = ‖G P‖² / ‖G‖² = 1 − r².</li>
<li><code>null_destroyed_ratio</code> = √(1 − rank(W) / V): the same for a random subspace; <code>destroyed_excess</code> is the
difference.</li>
<li><code>step_cosine</code> = cosine of G and G W Wᵀ, the logit change that backpropagation into the features makes.</li>
<li><code>avoidable_energy</code> = (Σ s² of the D largest singular values of G) / Σ s² − <code>retained_energy</code>: what the best
D-dimensional output space for these tokens would keep beyond this head's. Cross-validated: the space from one half of the
documents, the energy of the other.</li>
<li>Steps: z − a √N S / ‖S‖ for S = G, G W Wᵀ and G P; a is the root mean square length of a token's change.</li>
</ul></section>"""

CONCLUSIONS = """<section id="limits"><h2>What may, and may not, be concluded</h2>
<ul>
<li>May: where, for this model on this text, the logit gradient lies relative to the head, exactly; and how that compares with
chance.</li>
<li>May: how much of it no head of this width could keep, and how much is this head pointing elsewhere.</li>
<li>May not: that what is destroyed is lost to training. It never reaches the backbone, but the head itself is trained by all
of G (∂L/∂W = Gᵀ H / N).</li>
<li>May not: that a smaller <code>destroyed_ratio</code> trains better. That takes controlled runs.</li>
<li>May not: comparison of <code>destroyed_ratio</code> across widths or vocabularies without the null: a random head has it
near 1 too, by arithmetic.</li>
<li>May not: comparison of loss per token across tokenizers; bits per byte compare.</li>
<li>The avoidable energy is biased upward, being fitted to the tokens it is judged on; the cross-validated one is biased
downward.</li>
</ul></section>"""
