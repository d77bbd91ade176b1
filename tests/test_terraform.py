"""The Terraform code is formatted, valid, and keeps the promises that its own tests state.

Everything runs on a copy of the tree, against mocked resources, with a provider that is already
on this machine: nothing is downloaded and no cloud is contacted.
"""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "terraform"
CONFIGURATIONS = sorted(
    path.parent.relative_to(SOURCE).as_posix() for path in SOURCE.glob("*/*/versions.tf")
)
GENERATED = shutil.ignore_patterns(
    ".terraform", ".terraform.lock.hcl", "*.tfstate*", "*.tfplan", "*_override.tf"
)

# A configuration with the event log in its state, and a provider that calls nobody.
DEPLOYED = """
provider "aws" {
  region                      = "eu-central-1"
  access_key                  = "mock"
  secret_key                  = "mock"
  skip_credentials_validation = true
  skip_metadata_api_check     = true
  skip_requesting_account_id  = true
}

module "event_log" {
  source      = "../modules/event_log"
  bucket_name = "events-test"
}
"""

STATE = {
    "version": 4,
    "terraform_version": "1.11.0",
    "serial": 1,
    "lineage": "test",
    "outputs": {},
    "resources": [
        {
            "module": "module.event_log",
            "mode": "managed",
            "type": "aws_s3_bucket",
            "name": "log",
            "provider": 'provider["hashicorp/aws"]',
            "instances": [
                {"schema_version": 0, "attributes": {"id": "events-test", "bucket": "events-test"}}
            ],
        }
    ],
}

MIRRORED = """
provider_installation {{
  filesystem_mirror {{
    path = "{path}"
  }}
}}
"""

Run = Callable[..., subprocess.CompletedProcess[str]]


def provider_mirror() -> Path | None:
    "The first folder with a usable provider: where Terraform itself looks, or below /opt."
    home, cache = Path.home(), os.environ.get("TF_PLUGIN_CACHE_DIR")
    data = Path(os.environ.get("XDG_DATA_HOME", home / ".local/share"))
    folders = [Path(cache)] if cache else []
    folders += [
        home / ".terraform.d/plugins",
        home / ".terraform.d/plugin-cache",
        data / "terraform/plugins",
    ]
    folders += [Path(share, "terraform/plugins") for share in ("/usr/local/share", "/usr/share")]
    folders += sorted(Path("/opt").glob("*"))
    for folder in folders:  # below it: host/namespace/name/version/platform/binary
        for binary in folder.glob("*/hashicorp/aws/5.*/*/terraform-provider-aws_v5*"):
            if int(binary.parts[-3].split(".")[1]) >= 100:  # the configurations require ~> 5.100
                return folder
    return None


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    "A copy of terraform/, without what an earlier run or its user left there."
    return shutil.copytree(SOURCE, tmp_path_factory.mktemp("terraform") / "tree", ignore=GENERATED)


@pytest.fixture(scope="module")
def terraform(tree: Path) -> Run:
    "Runs Terraform in a folder of the copy, cut off from settings, credentials and network."
    binary = shutil.which("terraform")
    if binary is None:
        pytest.skip("terraform is not installed")
    mirror, config = provider_mirror() or tree, tree.parent / "terraform.rc"
    config.write_text(MIRRORED.format(path=mirror.as_posix()))
    env = {
        name: value for name, value in os.environ.items() if not name.startswith(("TF_", "AWS_"))
    }
    env |= {"TF_CLI_CONFIG_FILE": str(config), "TF_IN_AUTOMATION": "1", "CHECKPOINT_DISABLE": "1"}

    def run(folder: str, *args: str) -> subprocess.CompletedProcess[str]:
        command = [binary, f"-chdir={tree / folder}", *args, "-no-color"]
        output = {"text": True, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        return subprocess.run(command, check=False, env=env, timeout=300, **output)

    return run


@pytest.fixture(scope="module")
def initialise(terraform: Run) -> Callable[[str], None]:
    "Makes a configuration ready to use, with a provider from this machine."
    if provider_mirror() is None:
        pytest.skip(
            "no local mirror of the AWS provider ~> 5.100; terraform/README.md says how to make one"
        )

    def initialise(folder: str) -> None:
        result = terraform(folder, "init", "-backend=false", "-input=false")
        assert result.returncode == 0, result.stdout

    return initialise


@pytest.fixture(scope="module", params=CONFIGURATIONS)
def configuration(request: pytest.FixtureRequest, initialise: Callable[[str], None]) -> str:
    "An initialised configuration, as its folder below terraform/."
    initialise(request.param)
    return request.param


def test_every_file_is_formatted(terraform: Run):
    result = terraform(".", "fmt", "-check", "-recursive", "-diff")
    assert result.returncode == 0, result.stdout


def test_configuration_is_valid(terraform: Run, configuration: str):
    result = terraform(configuration, "validate")
    assert result.returncode == 0, result.stdout


def test_promises_are_kept(terraform: Run, configuration: str):
    example = SOURCE / configuration / "example.tfvars"
    result = terraform(
        configuration, "test", *([f"-var-file={example.name}"] if example.exists() else [])
    )
    assert result.returncode == 0, result.stdout
    assert re.search(r"[1-9]\d* passed, 0 failed", result.stdout), f"no test ran:\n{result.stdout}"


def test_destroy_is_refused_before_anything_is_touched(
    tree: Path, terraform: Run, initialise: Callable[[str], None]
):
    "Else it fails only at the bucket, with its policy, lock and versioning gone already."
    deployed = tree / "deployed"
    deployed.mkdir()
    (deployed / "main.tf").write_text(DEPLOYED)
    (deployed / "terraform.tfstate").write_text(json.dumps(STATE))
    initialise(deployed.name)
    result = terraform(deployed.name, "plan", "-destroy", "-refresh=false", "-input=false")
    assert result.returncode == 1, result.stdout
    assert (
        "Resource module.event_log.aws_s3_bucket.log has lifecycle.prevent_destroy" in result.stdout
    ), result.stdout
