"""ltbench: a benchmark suite for long-tailed image classification.

`ltbench.run`, `ltbench.sweep`, `ltbench.tune`, `ltbench.ablate`, `ltbench.table`,
`ltbench.compare`, `ltbench.audit_data`, `ltbench.external_test`, `ltbench.evaluate_run`,
`ltbench.describe`, `ltbench.list_methods` and `ltbench.list_datasets` are the Python twins of the
commands; `ltbench.evaluate_seeds` is `eval` of several runs.
"""

from ltbench.api import (
    ablate,
    audit_data,
    compare,
    describe,
    evaluate_run,
    evaluate_seeds,
    external_test,
    list_datasets,
    list_methods,
    run,
    sweep,
    table,
    tune,
)

__version__ = "0.1.0"

__all__ = [
    "__version__",
    "ablate",
    "audit_data",
    "compare",
    "describe",
    "evaluate_run",
    "evaluate_seeds",
    "external_test",
    "list_datasets",
    "list_methods",
    "run",
    "sweep",
    "table",
    "tune",
]
