"""The auxiliary losses of routers, as a training run would compute them on this trace. All need logits."""

import numpy as np
import pandas as pd

from moeviz.claims import Claim
from moeviz.metrics import captions
from moeviz.metrics.inputs import needs_tokens
from moeviz.metrics.words import one_row
from moeviz.routing_trace import RoutingTrace


@needs_tokens
def aux_loss(trace: RoutingTrace) -> pd.DataFrame:
    """Compute the auxiliary load-balancing loss: the measure of imbalance that training pushes down, layer by layer.

    E x sum over the layer's experts of f_i P_i: f_i says how much expert i was used, P_i is the mean over tokens of the
    router's probability for it. The factor alpha of a training run is left out. The forms in use differ in f_i:

    | column | f_i | loss under a uniform load |
    |---|---|---|
    | switch | share of the layer's assignments, all k slots | 1 |
    | first_choice | share of tokens whose first choice is i, as in the paper, whose k is 1 | 1 |
    | transformers | share of tokens with i in any slot, as in `load_balancing_loss_func`: sums to k | k |

    `pooled` is what that function returns for the model: it takes f_i and P_i over all layers together and then one
    sum, as if expert i were the same in all of them. Two layers with opposite imbalances look balanced in it.

    f_i is computed from the recorded choices. The function in transformers chooses again from the logits, by softmax,
    which gives the same for softmax routers without a balancing bias, groups or dropped tokens. A uniform load gives
    the value in the last column; a layer may come out a little below it, if its rarer experts have the more certain
    tokens.

    One row per layer. Columns: layer int32 · num_experts int16 (E) · switch, first_choice, transformers float64 (no
    unit) · even float64 (no share: the value of `transformers`, and of `pooled`, under a perfectly uniform load, which
    is k) · pooled float64 (the same in each row; NaN if layers differ in E). All are NaN without tokens, and
    first_choice if the trace does not say which experts are first choices. Raises `MissingField` if the trace has no
    logits, or does not say how the router turns them into probabilities.

    Source: Switch Transformers (arXiv 2101.03961), eq. 4 to 6; `load_balancing_loss_func` of transformers' Mixtral. On
    pooling hiding imbalance: huggingface/transformers issue 28255, QwenLM/Qwen3 issue 1418.
    """
    model, tokens = trace.model, len(trace.tokens) or np.nan
    importance = trace.probabilities("The auxiliary loss").sum(axis=1, dtype=np.float64) / tokens
    chosen, first = (_tokens_per_expert(trace, slots) for slots in (model.top_k, 1))
    assignments = chosen.sum(axis=1, keepdims=True)
    num_experts = np.asarray(model.num_experts)
    f = {
        "switch": chosen / np.where(assignments == 0, np.nan, assignments),
        "first_choice": first / (tokens if trace.ordered else np.nan),
        "transformers": chosen / tokens,
    }
    pooled = (f["transformers"].mean(axis=0) * importance.mean(axis=0)).sum() * num_experts[0]
    facts = {"layer": np.asarray(model.layers, np.int32), "num_experts": num_experts.astype(np.int16)}
    losses = {form: num_experts * (share * importance).sum(axis=1) for form, share in f.items()}
    whole = {"even": float(model.top_k), "pooled": pooled if len(set(model.num_experts)) == 1 else np.nan}
    return pd.DataFrame(facts | losses | whole)


def _tokens_per_expert(trace: RoutingTrace, slots: int) -> np.ndarray:
    """Count the tokens that have each expert in one of their first `slots` slots: layers by experts."""
    width = max(trace.model.num_experts)
    chosen = trace.experts[..., :slots]
    return np.stack([np.bincount(layer[layer >= 0], minlength=width) for layer in chosen])


@needs_tokens
def z_loss(trace: RoutingTrace) -> pd.DataFrame:
    """Compute the router z-loss, which keeps logits small so that training stays stable, layer by layer.

    The mean over tokens of (ln sum over experts of exp(logit))^2, without the coefficient of a training run. Adding the
    same number to all logits of a token changes none of its choices, but does change this loss. Logits that are all 0
    give (ln E)^2. The paper's routers choose by softmax; for others the formula is the same, but the number says less.

    One row per layer. Columns: layer int32 · num_experts int16 (E) · z_loss float64 (nats^2; NaN without tokens) ·
    logsumexp float64 (its mean over tokens before squaring, nats) · zero_logits float64 ((ln E)^2). Raises
    `MissingField` if the trace has no logits.

    Source: ST-MoE (arXiv 2202.08906), eq. 5.
    """
    rows = []
    for layer, num_experts, logits in zip(
        trace.model.layers, trace.model.num_experts, trace.need("logits", "The router z-loss"), strict=True
    ):
        sums = np.logaddexp.reduce(logits[:, :num_experts].astype(np.float64), axis=1)
        means = {"z_loss": (sums**2).mean(), "logsumexp": sums.mean()} if len(sums) else {}
        rows.append({"layer": layer, "num_experts": num_experts, "zero_logits": np.log(num_experts) ** 2} | means)
    columns = ["layer", "num_experts", "z_loss", "logsumexp", "zero_logits"]
    kinds = {"layer": np.int32, "num_experts": np.int16} | dict.fromkeys(columns[2:], np.float64)
    return pd.DataFrame(rows, columns=columns).astype(kinds)


def aux_loss_caption(frame: pd.DataFrame) -> Claim | None:
    """Claim which layer has the highest balancing loss, if it is a quarter above that of a uniform load."""
    losses = frame["transformers"]
    if not losses.max() >= 1.25 * frame["even"].iloc[0]:
        return None
    row = one_row(frame, losses.idxmax())
    return captions.highest_aux_loss(row.layer, row.transformers, losses.min(), row.even)


def z_loss_caption(frame: pd.DataFrame) -> Claim | None:
    """Claim which layer has the highest z-loss, if it is twice that of the median layer."""
    if len(frame) < 3 or not frame["z_loss"].max() >= 2.0 * frame["z_loss"].median():
        return None
    row = one_row(frame, frame["z_loss"].idxmax())
    return captions.highest_z_loss(row.layer, row.z_loss, frame["z_loss"].median())
