"""What the survey found, as rows of the table of families."""

import re
from collections.abc import Iterator

import pandas as pd
import transformers

from moeviz.capture.record.loops import LAYER_KIND
from moeviz.capture.routers.declared import Router
from moeviz.capture.routers.families import TABLE
from moeviz.capture.routers.router_families import FAMILIES
from moeviz.capture.survey.survey import Finding, survey

SELECTION = re.compile(r"(correction_bias|balancing_biases|expert_bias)$")
SHARED = re.compile(r"^shared_(?!expert_gate)")
YES = "yes"
OWN = "–"  # the kernels do not run it, so nothing has read these steps off the router
# What is known to differ from what the experts receive, in words; the survey's own are of one token.
KNOWN_TROUBLE = {"nllb_moe": "no: experts 0 and 1 run whatever the router decides (transformers 5.24)"}


def rows_of(findings: list[Finding]) -> Iterator[dict[str, str]]:
    """A row per class of router and site."""
    for finding in findings:
        for router in {router.kind: router for router in finding.routers}.values():
            yield _row(finding, router)


def _row(finding: Finding, router: Router) -> dict[str, str]:
    reasons = {part.partition(" ")[0]: part.partition(" ")[2] for part in finding.kernels.split("; ")}
    if finding.trace.model.layer_kind == LAYER_KIND:
        reasons = {router.kind: "runs several times a forward"}
    trouble = KNOWN_TROUBLE.get(finding.architecture, finding.trouble) if finding.trouble else YES
    return {
        "architecture": finding.architecture,
        "router": router.kind,
        "site": finding.site,
        **_gating(finding, router),
        "shared": YES if any(SHARED.search(name) for name, _ in router.block.named_children()) else "",
        "kernels": reasons.get(router.kind, YES),
        "exact": trouble,
        "remark": router.odd.oddity if router.odd else "",
    }


def _gating(finding: Finding, router: Router) -> dict[str, str]:
    tensors = [*router.block.named_parameters(), *router.block.named_buffers()]
    facts = {"score": finding.trace.model.score_function.replace("_", " ")}
    facts["bias"] = YES if any(SELECTION.search(name) for name, _ in tensors) else ""
    if (family := FAMILIES.get(router.kind)) is None:
        return facts | dict.fromkeys(("groups", "renormalised", "scaled"), OWN)
    gating = family.gating(router.module)
    by_config = hasattr(router.module, "norm_topk_prob")
    return facts | {
        "groups": "" if gating.groups == 1 else gating.group_score.replace("_", " "),
        "renormalised": "by config" if by_config else YES if gating.renormalise else "",
        "scaled": YES if gating.scale != 1 or router.factor != 1 else "",
    }


def table_of(architectures: list[str]) -> pd.DataFrame:
    """The table of these architectures, from a survey of each."""
    return pd.DataFrame([row for name in architectures for row in rows_of(survey(name))])


def write_table(table: pd.DataFrame) -> None:
    """Put the table where it ships."""
    TABLE.write_text(f"# transformers {transformers.__version__}\n{table.to_csv(index=False)}")
