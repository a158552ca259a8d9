"""ltbench: a benchmark suite for long-tailed image classification.

`ltbench.run`, `ltbench.sweep`, `ltbench.tune`, `ltbench.ablate`, `ltbench.table`,
`ltbench.compare`, `ltbench.audit_data`, `ltbench.external_test`, `ltbench.evaluate_run`,
`ltbench.describe`, `ltbench.list_methods`, `ltbench.list_datasets`, `ltbench.bundle`,
`ltbench.build_board`, `ltbench.add_to_board`, `ltbench.check_boards`, `ltbench.verify`,
`ltbench.predict`, `ltbench.export`, `ltbench.write_figures` and `ltbench.write_site` are the Python
twins of the commands; `ltbench.evaluate_seeds` is `eval` of several runs.
"""

from ltbench.api import (
    ablate,
    audit_data,
    describe,
    external_test,
    list_datasets,
    list_methods,
    run,
    sweep,
    tune,
)
from ltbench.bundle_api import add_to_board, build_board, bundle, check_boards
from ltbench.model_api import export, predict, verify
from ltbench.results_api import (
    compare,
    evaluate_run,
    evaluate_seeds,
    table,
    write_figures,
    write_site,
)

__version__ = "0.1.0"

__all__ = [
    "__version__",
    "ablate",
    "add_to_board",
    "audit_data",
    "build_board",
    "bundle",
    "check_boards",
    "compare",
    "describe",
    "evaluate_run",
    "evaluate_seeds",
    "export",
    "external_test",
    "list_datasets",
    "list_methods",
    "predict",
    "run",
    "sweep",
    "table",
    "tune",
    "verify",
    "write_figures",
    "write_site",
]
