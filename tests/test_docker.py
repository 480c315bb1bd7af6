"""docker/: what can be said of the images, the stack and the pools without a Docker engine."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flows.worker import HEARTBEAT
from tests.stack import DOCKER, INTERPOLATION, compose, prepare

ROOT = DOCKER.parent
TEXT = (DOCKER / "compose.yaml").read_text(encoding="utf-8")
SERVICES: dict[str, dict[str, Any]] = compose()["services"]
ONCE = {"prefect-migrations", "mlflow-migrations", "deploy"}
STATE = {"postgres", "redis", "seaweedfs"}
SECRET = re.compile(r"\{secret:(\w+)\}")
IMAGES = sorted(DOCKER.glob("Dockerfile*"))


def strings(value: Any) -> Iterator[str]:
    """Every text inside a service."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for inner in value:
            yield from strings(inner)
    elif isinstance(value, str):
        yield value


def test_compose_is_as_specified() -> None:
    """compose.yaml is valid by the Compose Specification, and a misspelt key would not be."""
    from compose_spec import PyCompose

    read = PyCompose.from_json(json.dumps(compose()))
    read.validate()
    assert set(read.service_names()) == set(SERVICES)
    mistaken = compose(TEXT.replace("    healthcheck:\n", "    healthchek:\n", 1))
    with pytest.raises(ValueError, match="healthchek"):
        PyCompose.from_json(json.dumps(mistaken))


def test_docker_compose_reads_it() -> None:
    """`docker-compose config` takes it as it is in a fresh clone, with and without the GPU."""
    program = shutil.which("docker-compose")
    if program is None:
        pytest.skip("docker-compose is not here; Debian's package of that name has it")
    for profile in ([], ["--profile", "gpu"]):
        arguments = [program, "--file", DOCKER / "compose.yaml", *profile, "config", "--services"]
        done = subprocess.run(arguments, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert set(done.stdout.split()) >= set(SERVICES) - {"worker-gpu"}


def test_nothing_secret_is_written_down() -> None:
    """What a password is for is given the name of a secret file, never a value."""
    secret = re.compile(r"PASSWORD|SECRET|ACCESS_KEY|AUTH_STRING")
    for name, service in SERVICES.items():
        for variable, value in service.get("environment", {}).items():
            if secret.search(variable):
                assert re.fullmatch(r"\{secret:\w+\}|/run/secrets/\w+", value), (name, variable)
        for text in strings(service):  # user:password@host
            for login in re.findall(r"://(\w*):([^@/\s]+)@", text):
                assert SECRET.fullmatch(login[1]), (name, text)
    example = (DOCKER / ".env.example").read_text(encoding="utf-8")
    assert not secret.search(re.sub(r"#.*", "", example))


def test_each_service_gets_the_secrets_it_uses() -> None:
    """Not one fewer, not one more."""
    declared = compose()["secrets"]
    for name, service in SERVICES.items():
        text = "\n".join(strings(service))
        for script in re.findall(r"\./(\w+\.sh):", text):
            text += (DOCKER / script).read_text(encoding="utf-8")
        used = set(SECRET.findall(text))
        used |= set(
            re.findall(r"(?:/run/secrets|\$secrets|secrets\}|:-/run/secrets\})/(\w+)", text)
        )
        assert used == set(service.get("secrets", [])), name
        assert used <= set(declared), name


def test_prepare_makes_the_secrets(tmp_path: Path) -> None:
    """prepare.sh makes every secret that compose.yaml declares, each another, in a folder that only
    its owner may enter, and keeps what is there."""
    folder = prepare(tmp_path) / "secrets"
    made = {path.name: path.read_text() for path in folder.iterdir()}
    assert set(made) == set(compose()["secrets"])
    assert len(set(made.values())) == len(made)
    assert all(len(value) >= 48 for value in made.values())
    assert folder.stat().st_mode & 0o777 == 0o700
    subprocess.run(["sh", folder.parent / "prepare.sh"], stdout=subprocess.DEVNULL, check=True)
    assert {path.name: path.read_text() for path in folder.iterdir()} == made
    kept = subprocess.run(
        ["git", "check-ignore", "docker/secrets/x", "docker/.env", "docker/project/x"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert len(kept.stdout.split()) == 3 or not (ROOT / ".git").exists()


def test_every_image_is_pinned() -> None:
    """Each names a version with at least two numbers."""
    bases = [line.split()[1] for path in IMAGES for line in path.read_text().splitlines()
             if line.startswith("FROM ")]  # fmt: skip
    for image in [*bases, *(service["image"] for service in SERVICES.values())]:
        assert re.search(r":\d+\.\d+[\w.-]*$", image), image


def test_our_images_carry_this_version() -> None:
    """graft:0.1.0-cpu is Graft 0.1.0."""
    version = re.search(r'^version = "(.*)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert version
    ours = {
        s["image"].partition(":")[2] for s in SERVICES.values() if s["image"].startswith("graft")
    }
    assert ours == {version[1], f"{version[1]}-cpu", f"{version[1]}-cuda"}


@pytest.mark.parametrize("name", SERVICES)
def test_services_are_restricted(name: str) -> None:
    """No root, no capability, nothing to write but volumes and memory; what lasts is watched."""
    service = SERVICES[name]
    assert service["user"].split(":")[0] not in ("root", "0")
    assert service["read_only"]
    assert service["cap_drop"] == ["ALL"]
    assert service["init"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert ("healthcheck" in service) == (name not in ONCE)
    assert service["restart"] == ("no" if name in ONCE else "unless-stopped")


def test_ports_are_for_this_machine() -> None:
    """Published on loopback unless .env says otherwise, and of nothing but Prefect and MLflow."""
    published = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}
    assert set(published) == {"prefect-api", "mlflow"}
    for (port,) in published.values():
        assert port.startswith("127.0.0.1:")


def test_state_is_out_of_reach() -> None:
    """Databases and the store are on an internal network that no worker is on."""
    assert compose()["networks"]["state"]["internal"]
    assert {name for name in SERVICES if SERVICES[name]["networks"] == ["state"]} >= STATE
    for name in ("worker-cpu", "worker-gpu", "deploy"):
        assert SERVICES[name]["networks"] == ["graft"]


def test_workers_share_a_home() -> None:
    """Stage outputs travel by path, so both pools see one GRAFT_HOME; a GPU worker has one GPU, and
    a host name that tells its slot from others'."""
    cpu, gpu = SERVICES["worker-cpu"], SERVICES["worker-gpu"]
    assert cpu["environment"] == gpu["environment"]
    assert cpu["volumes"] == gpu["volumes"]
    assert f"graft:{cpu['environment']['GRAFT_HOME']}" in cpu["volumes"]
    assert gpu["profiles"] == ["gpu"]
    assert gpu["hostname"]
    (device,) = gpu["deploy"]["resources"]["reservations"]["devices"]
    assert device["capabilities"] == ["gpu"]
    assert len(device["device_ids"]) == 1
    assert "args" not in gpu["build"]  # PyPI's wheel is the CUDA build


def test_settings_are_those_of_the_example() -> None:
    """.env.example names every variable of compose.yaml, with its default."""
    example = (DOCKER / ".env.example").read_text(encoding="utf-8")
    settings = dict(re.findall(r"^(\w+)=(.*)$", example, re.MULTILINE))
    assert settings.pop("COMPOSE_PROJECT_NAME") == "graft"
    assert dict(INTERPOLATION.findall(TEXT)) == settings
    assert TEXT.count("${") == len(INTERPOLATION.findall(TEXT))


@pytest.mark.parametrize("path", IMAGES, ids=lambda path: path.name)
def test_images_copy_what_is_there(path: Path) -> None:
    """Every path that an image copies exists, and .dockerignore lets it through."""
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    allowed = [line[1:] for line in ignored if line.startswith("!")]
    for line in re.findall(r"^COPY (?!--from)(.*)$", path.read_text(), re.MULTILINE):
        for source in line.split()[:-1]:
            assert (ROOT / source).exists(), source
            assert any(Path(source).match(pattern) for pattern in allowed), source


def start(folder: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run the images' entrypoint on secrets in a folder."""
    return subprocess.run(
        [sys.executable, DOCKER / "entrypoint.py", *arguments],
        env={"PATH": str(Path(sys.executable).parent), "SECRETS": str(folder), **variables},
        capture_output=True,
        text=True,
        check=False,
    )


def test_secrets_become_variables(tmp_path: Path) -> None:
    """{secret:NAME} is the file's content, percent-encoded inside an address."""
    (tmp_path / "word").write_text("a/b@c\n")
    script = "import os; print(os.environ['PLAIN'], os.environ['ADDRESS'])"
    told = {"PLAIN": "{secret:word}", "ADDRESS": "redis://:{secret:word}@redis:6379/0"}
    done = start(tmp_path, "python", "-c", script, **told)
    assert done.stdout == "a/b@c redis://:a%2Fb%40c@redis:6379/0\n", done.stderr


def test_a_missing_secret_ends_in_one_line(tmp_path: Path) -> None:
    """It names the file and where to read on."""
    done = start(tmp_path, "python", "-c", "", PLAIN="{secret:word}")
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        f"entrypoint: {tmp_path / 'word'}: No such file or directory; see docker/README.md, Secrets"
    ]


def test_a_command_of_graft_needs_no_graft(tmp_path: Path) -> None:
    """`docker run graft list` is `graft list`."""
    done = start(tmp_path, "list", "--file", str(ROOT / "pipelines.yaml"))
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("reviews ")


def configured(name: str) -> tuple[Any, Any]:
    """A worker of the package, and its configuration as the template gives it."""
    if name == "kubernetes":
        from prefect_kubernetes.worker import KubernetesWorker as Worker
    else:
        from prefect_docker.worker import DockerWorker as Worker  # type: ignore[assignment]
    template = json.loads((DOCKER / "pools" / f"{name}.json").read_text())
    known = set(Worker.get_default_base_job_template()["job_configuration"])
    assert set(template["job_configuration"]) <= known
    making = Worker.job_configuration.from_template_and_values(template, {})
    made = asyncio.run(making) if asyncio.iscoroutine(making) else making
    # else it is silent for longer than the server takes for dead
    assert made.env["PREFECT_FLOWS_HEARTBEAT_FREQUENCY"] == str(HEARTBEAT)
    return Worker, made


@pytest.mark.integration  # Prefect starts a server to look for blocks in the template
def test_kubernetes_pool() -> None:
    """prefect-kubernetes reads the template: one GPU a pod, GRAFT_HOME on a claim, no root."""
    _, configuration = configured("kubernetes")
    job = configuration.job_manifest["spec"]
    pod = job["template"]["spec"]
    (container,) = pod["containers"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert container["image"].endswith("-cuda")
    assert pod["volumes"][0]["persistentVolumeClaim"]["claimName"] == "graft-home"
    assert configuration.env["GRAFT_HOME"] == container["volumeMounts"][0]["mountPath"]
    assert pod["securityContext"]["runAsNonRoot"]
    assert pod["restartPolicy"] == "Never"
    assert job["completions"] == job["parallelism"] == 1


@pytest.mark.integration
def test_docker_pool() -> None:
    """prefect-docker reads the template, and docker-py takes what it makes of it."""
    from docker.models.containers import _create_container_args

    import docker

    worker, configuration = configured("docker")
    assert configuration.env["PREFECT_API_URL"] == "http://prefect-api:4200/api"
    assert configuration.networks == [compose()["networks"]["graft"]["name"]]
    assert f"{compose()['volumes']['graft']['name']}:/data" in configuration.volumes
    client = docker.DockerClient(version="1.44")  # asks no engine, where the version is given
    settings = worker._build_container_settings(None, client, configuration)
    settings.pop("network")
    arguments = _create_container_args({**settings, "version": "1.44"})
    host = arguments["host_config"]
    assert host["DeviceRequests"][0]["DeviceIDs"] == ["0"]
    assert host["ReadonlyRootfs"]
    assert host["Init"]
    assert host["CapDrop"] == ["ALL"]
    assert not host.get("Privileged")


def test_volumes_of_the_documented_backup() -> None:
    """They are the stack's: Docker makes a volume of any other name, and an archive of nothing."""
    variables = dict(re.findall(r"^(\w+)=(.*)$", (DOCKER / ".env.example").read_text(), re.M))
    made = {f"{variables['COMPOSE_PROJECT_NAME']}_{name}" for name in compose()["volumes"]}
    named = set(re.findall(r"--volume (\w+):", (DOCKER / "README.md").read_text()))
    assert named
    assert named <= made
