"""The DAGs of the pipeline, which `include.compiler` makes from the assets in `assets/definitions`."""

from airflow.sdk import DAG  # noqa: F401  (Airflow looks for this word in files that may hold DAGs)

from assets.definitions import GRAPH
from contexts.settings import Settings, read_settings
from include.compiler import compile_dags

globals().update(compile_dags(GRAPH, read_settings(Settings)))
