"""A wheel carries what a project without files of its own falls back on; see `mlkit.project`."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

HERE = Path(__file__).parent
SHIPPED = [
    *sorted(HERE.glob("pipelines/*.ipynb")),
    HERE / "pipelines" / "pipeline.yaml",
    HERE / "bentofile.yaml",
    HERE / "requirements-serving.txt",
]


class BuildWithShipped(build_py):
    "Put the pipeline and the service's build files into the package, as `mlkit/shipped/`."

    def run(self) -> None:
        super().run()
        if self.editable_mode:
            return
        for path in SHIPPED:
            place = Path(self.build_lib) / "mlkit" / "shipped" / path.relative_to(HERE)
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, place)


setup(cmdclass=dict(build_py=BuildWithShipped))
