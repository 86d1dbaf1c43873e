"""The DAG that deletes old rows and logs; the pipeline's own DAGs are in `pipeline.py`."""

from airflow.sdk import DAG

from contexts.settings import Settings, read_settings
from include.housekeeping import housekeeping_dag

housekeeping: DAG = housekeeping_dag(read_settings(Settings))
