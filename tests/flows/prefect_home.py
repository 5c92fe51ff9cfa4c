"""Import before Prefect: its files belong in a folder of the tests', not in ~/.prefect."""

import atexit
import os
import shutil
import tempfile

PREFECT_HOME = tempfile.mkdtemp(prefix="prefect-tests-")
os.environ["PREFECT_HOME"] = PREFECT_HOME
atexit.register(shutil.rmtree, PREFECT_HOME, ignore_errors=True)
