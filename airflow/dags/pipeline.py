"""The DAGs of the pipeline: assets are defined in `assets/definitions`, DAGs are compiled in `include`."""

from airflow.sdk import DAG  # noqa: F401  (Airflow looks for this word in files that may hold DAGs)

from assets.definitions import GRAPH
from contexts.settings import Settings, read_settings
from include.compiler import compile_dags

globals().update(compile_dags(GRAPH, read_settings(Settings)))
