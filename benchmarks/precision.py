"""How many tokens are sent to other experts in another precision, and how many of these were ties?

    python -m benchmarks.precision

On the evaluation set that ships, the first 1,500 characters of each text, every layer of the embedded model.
"""

import pandas as pd

from moeviz.analyses.precisions import in_precisions
from moeviz.capture.models.load import load_model
from moeviz.checks import precision_table
from moeviz.embedded.evaluation import evaluation_set

CHARACTERS = 1500
BATCH = 15  # texts


def main() -> None:
    """Print, by precision and layer, the share of tokens whose set of experts is another than in float32."""
    model, texts = load_model(), [text.text[:CHARACTERS] for text in evaluation_set()]
    parts = [
        precision_table(in_precisions(model, texts[start : start + BATCH])) for start in range(0, len(texts), BATCH)
    ]
    table = pd.concat(parts)
    shares = table.columns.drop(["precision", "layer", "tokens"])
    weighted = table[shares].mul(table["tokens"], axis=0).assign(**table[["precision", "layer", "tokens"]])
    sums = weighted.groupby(["precision", "layer"], sort=False).sum()
    print(sums[shares].div(sums["tokens"], axis=0).mul(100).round(2).assign(tokens=sums["tokens"]).to_string())
    print("In percent of the tokens; overlap: of the float32 choice's experts.")


if __name__ == "__main__":
    main()
