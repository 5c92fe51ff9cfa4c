"""MLflow, imported without its own warnings, which are errors in tests.

Import this in every test module (or its conftest) that opens a tracker or loads a model in its own
process: what MLflow imports late is imported here, once.
"""

import warnings

from sqlalchemy.exc import SADeprecationWarning

with warnings.catch_warnings():
    # mlflow 3.17 maps its tables with a loader strategy that sqlalchemy 2.1 calls deprecated.
    warnings.filterwarnings("ignore", "The ``noload`` loader strategy", SADeprecationWarning)
    # mlflow.types.responses warns about mlflow's own type hints, and hides it by replacing
    # warnings.showwarning, which an error does not pass.
    warnings.filterwarnings("ignore", ".*Any type hint is inferred as AnyType", UserWarning)
    # MLflow configures all mappers that there are, those of Prefect's server too.
    warnings.filterwarnings("ignore", "Type object <class 'prefect", SADeprecationWarning)
    import mlflow.pyfunc.scoring_server
    import mlflow.store.model_registry.sqlalchemy_store
    import mlflow.store.tracking.sqlalchemy_store

__all__ = ["mlflow"]
