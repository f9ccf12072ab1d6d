"""Which IV should encrypted persistent memory use? Experiments on every scheme, on real bytes.

outcome = mktme.lab.iv.run()
for row in outcome["schemes"]:
print(row["name"], row["cells"]["relocation"]["grade"], row["cells"]["relocation"]["evidence"])
"""

from mktme.lab.iv.study import EXPERIMENTS, run, write_csv

__all__ = ["EXPERIMENTS", "run", "write_csv"]
