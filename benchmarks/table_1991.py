"""Table 1 of the paper of 1991 beside ours, trained anew with 25 seeds of each: python -m benchmarks.table_1991

With praat-parselmouth installed, of the measured vowels too. Half a minute. `python -m benchmarks.history local-experts
--sweeps` writes the same table to the file that ships.
"""

import pandas as pd

from moeviz.history.local_experts_1991.exhibit import table_1

if __name__ == "__main__":
    with pd.option_context("display.float_format", "{:,.2f}".format):
        print(table_1().to_string(index=False))
