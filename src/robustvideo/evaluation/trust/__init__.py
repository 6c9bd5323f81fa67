"""Trust checks: eleven lines that say whether a robust accuracy may be believed.

Sources: the checklist of Carlini et al. 2019 ("On evaluating adversarial robustness"), Athalye et al. 2018, and what
`AutoAttack` and RobustBench flag.
"""

from robustvideo.evaluation.trust.check import LINES, Check, load_checks
from robustvideo.evaluation.trust.examine import examine, examine_run

__all__ = ["LINES", "Check", "examine", "examine_run", "load_checks"]
