"""The image, built and run for real under the settings of docker/compose.yaml, as a user who is not its own."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path

import pytest
from container import COMPOSE, Build, listing, run
from ruamel.yaml import YAML
from test_pipeline import EXAMPLES

from checkout import Checkout
from tiny import ROOT
from tli.io.files import sha256_of

pytestmark = pytest.mark.slow

USER = "12345:23456"  # neither the image's nor anybody's here
LIMIT = 2.8e9  # bytes of the image, as `docker images` counts them


class Services:
    """docker/compose.yaml with volumes of its own and `out` in place of the checkout's out/."""

    def __init__(self, folder: Path) -> None:
        self.out = folder / "out"
        self.out.mkdir()
        os.chown(self.out, *map(int, USER.split(":")))
        uid, gid = USER.split(":")
        self.env = os.environ | {"UID": uid, "GID": gid}
        override = folder / "override.yaml"
        services = {name: {"volumes": [f"{self.out}:/out"]} for name in ("repro", "shell")}
        override.write_text(json.dumps({"services": services}), encoding="utf-8")  # JSON is YAML
        self.compose = [
            "docker",
            "compose",
            "--progress",
            "quiet",
            "-p",
            f"tli-{os.getpid()}",
            "-f",
            str(COMPOSE),
            "-f",
            str(override),
        ]

    def __call__(self, service: str, *command: str, status: int = 0, options: tuple[str, ...] = ()) -> str:
        """Runs `command`, or the service's own, and asserts its exit status; both streams in one."""
        call = run(*self.compose, "run", "--rm", "-T", *options, service, *command, ok=False, env=self.env)
        assert call.returncode == status, f"{service} {command}: exit {call.returncode}\n{call.stdout[-4000:]}"
        return call.stdout

    def digests(self) -> dict[str, str]:
        """As Checkout.digests, of the workspace."""
        kept = r"find build results paper -type f ! -name '*.receipt.json' ! -name 'costs.*' -print0"
        text = self("shell", "bash", "-c", f"{kept} | xargs -0 sha256sum")
        return {name: digest for digest, name in re.findall(r"^([0-9a-f]{64})  (.*)$", text, re.M)}


@pytest.fixture(scope="module")
def services(image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Services]:
    made = Services(tmp_path_factory.mktemp("services"))
    yield made
    run(*made.compose, "down", "--volumes", "--timeout", "5", env=made.env)


@pytest.fixture(scope="module")
def inspected(image: str) -> dict[str, object]:
    (found,) = json.loads(run("docker", "image", "inspect", image).stdout)
    return dict(found)


def test_the_image_says_what_it_is(inspected: dict[str, object]) -> None:
    config = inspected["Config"]
    assert isinstance(config, dict)
    revision = run("git", "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty=+").stdout.strip()
    labels = {name.removeprefix("org.opencontainers.image."): value for name, value in config["Labels"].items()}
    assert labels == {
        "title": "tli-artifact",
        "version": labels["version"],
        "revision": revision,
        "licenses": "Apache-2.0 AND CC-BY-4.0",
    }
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", config["User"])
    assert not [line for line in config["Env"] if line.startswith(("PIP_", "TORCH_INDEX"))]


def test_the_image_is_small(inspected: dict[str, object], capsys: pytest.CaptureFixture[str]) -> None:
    size = inspected["Size"]
    assert isinstance(size, int)
    with capsys.disabled():
        print(f"\ntli:cpu: {size / 1e9:.2f} GB, limit {LIMIT / 1e9} GB")
    assert size < LIMIT


def repository(image: str) -> dict[str, str]:
    """Path -> mode and blob of the files in the image's git repository."""
    lines = run(
        "docker",
        "run",
        "--rm",
        "--network",
        "none",
        "--entrypoint",
        "git",
        image,
        "-C",
        "/opt/tli",
        "ls-tree",
        "-r",
        "main",
    ).stdout.splitlines()
    return {line.split("\t")[1]: " ".join(line.split()[:3:2]) for line in lines}


def test_the_workspace_is_what_git_holds(image: str) -> None:
    """Every file that git holds, as it is in the working tree, and none that it ignores."""
    listed = run("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard").stdout.split("\0")
    names = [name for name in dict.fromkeys(listed) if name and (ROOT / name).is_file()]
    blobs = run("git", "hash-object", *names).stdout.split()
    modes = ["100755" if os.access(ROOT / name, os.X_OK) else "100644" for name in names]
    assert repository(image) == dict(zip(names, (f"{m} {b}" for m, b in zip(modes, blobs, strict=True)), strict=True))


def test_nothing_of_the_build_stays(image: str, packages: list[str], marker: str) -> None:
    """No secret, no configuration of pip, no cache, no log, in any file and in no layer's command."""
    secrets = [Path(word.split("src=")[1]) for word in packages if "src=" in word]
    address = "\n".join(re.findall(r"http://127\.0\.0\.1:\d+", secrets[0].read_text(encoding="utf-8")))
    needles = [marker, *address.split()]
    files, found = listing(image, [needle.encode() for needle in needles])
    assert len(files) > 10_000
    assert found == {}
    unwanted = (
        r"(^|/)pip\.conf$|(^|/)\.config(/|$)|(^|/)\.cache(/|$)|run/secrets|(^|/)cacerts$|setup\.log$"
        r"|^var/lib/apt/lists/.|^var/cache/apt/.|^var/log/.|^tmp/.|^root/\.(?!bashrc$|profile$)|^work/."
    )
    assert [name for name in files if re.search(unwanted, name)] == []
    assert [name for name in files if re.search(r"^usr/bin/(gcc|cc|g\+\+|c\+\+|ld)(-\d+)?$", name)] == []
    history = run("docker", "history", "--no-trunc", "--format", "{{.CreatedBy}}", image).stdout
    assert [word for word in (*needles, *map(str, secrets)) if word in history] == []


def test_a_second_build_gives_the_same_files(
    image: str, base: str, build: Build, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]
) -> None:
    if not request.config.getoption("--twice"):
        pytest.skip("builds a second time: make image-test ARGS=--twice")
    first, _ = listing(image, [])
    build("--build-arg", f"BASE_IMAGE={base}", "--no-cache", "-t", "tli:again")
    second, _ = listing("tli:again", [])
    run("docker", "image", "rm", "tli:again")
    differing = sorted(name for name in first.keys() | second.keys() if first.get(name) != second.get(name))
    with capsys.disabled():
        print(f"\ntwo builds: {len(first)} paths, {len(differing)} differ", *differing[:20], sep="\n")
    assert differing == []


def test_a_base_that_cannot_be_had_points_to_the_page(build: Build, engine: None) -> None:
    nowhere = f"localhost:9/none@sha256:{'0' * 64}"
    said = build("--build-arg", f"BASE_IMAGE={nowhere}", ok=False)
    assert said.returncode == 2
    assert "'Re-pin the base' in docker/README.md" in said.stdout
    assert 'docker/README.md, "Re-pin the base"' in said.stdout, "Docker shows the line before the failing FROM"


def test_every_service_is_confined(engine: None) -> None:
    run("docker", "compose", "-f", COMPOSE, "--profile", "gpu", "config", "-q")
    text = run("docker", "compose", "-f", COMPOSE, "--profile", "gpu", "config", "--format", "json").stdout
    found = json.loads(text)["services"]
    assert set(found) == {"repro", "test", "shell", "fetch", "gpu"}
    for name, service in found.items():
        assert service["read_only"], name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert int(service["mem_limit"]) > 0, name
        assert [mount.split(":")[0] for mount in service["tmpfs"]] == ["/tmp"], name
        assert (service["network_mode"] == "none") == (name != "fetch"), name
        assert re.fullmatch(r"\d+:\d+", service["user"]), name
    (device,) = found["gpu"]["deploy"]["resources"]["reservations"]["devices"]
    assert device["capabilities"] == ["gpu"]


CONFINED = """
id -u; id -g
for folder in / /etc /opt/venv /usr/local/bin; do touch "$folder/x" 2>&1 || true; done
ls /sys/class/net
sed -n 's/^\\(CapEff\\|NoNewPrivs\\):\\t//p' /proc/self/status
touch "$HOME/x" /tmp/x /workspace/x && echo writable
python -c 'import socket; socket.create_connection(("192.0.2.1", 80), 5)' 2>&1 | tail -n 1
"""


def test_the_container_can_do_little(services: Services) -> None:
    lines = services("shell", "bash", "-c", CONFINED).splitlines()
    assert lines[:2] == USER.split(":")
    assert [line.split(": ")[-1] for line in lines[2:6]] == ["Read-only file system"] * 4
    assert lines[6:10] == ["lo", "0000000000000000", "1", "writable"]
    assert "Network is unreachable" in lines[10]


def test_the_exit_status_passes_through(services: Services, image: str) -> None:
    services("shell", "bash", "-c", "exit 37", status=37)
    assert run("docker", "run", "--rm", "--network", "none", image, "false", ok=False).returncode == 1


def test_a_folder_of_somebody_else_is_refused_at_once(services: Services, image: str, tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    said = run("docker", "run", "--rm", "--network", "none", "-u", "4242", "-v", f"{tmp_path}:/out", image, ok=False)
    assert said.returncode == 2
    assert f"tli: /out: user 4242 cannot write here, its owner is {os.getuid()}:{os.getgid()}" in said.stdout


def test_a_workspace_of_another_image_is_refused(image: str) -> None:
    volume = run("docker", "volume", "create").stdout.strip()
    start = ["docker", "run", "--rm", "--network", "none", "-v", f"{volume}:/workspace", image]
    try:
        run(*start, "git", "config", "tli.image", "0" * 40)
        said = run(*start, "true", ok=False)
    finally:
        run("docker", "volume", "rm", volume)
    assert said.returncode == 2
    assert "got one of another (000000000000)" in said.stdout


def logged(name: str, pattern: str, seconds: float) -> str:
    """The log of the container `name` as soon as it matches."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        text = run("docker", "logs", name, ok=False).stdout
        if re.search(pattern, text):
            return text
        time.sleep(0.5)
    raise AssertionError(f"{name}: no {pattern!r} in {seconds} s\n{text[-2000:]}")


def ran(text: str) -> list[str]:
    return re.findall(r"^Running stage '([^']+)'", text, re.M)


@pytest.fixture(scope="module")
def finished(services: Services) -> dict[str, str]:
    """`repro` under the smoke parameters, stopped in the stage `base`, then run again to its end: what both printed."""
    services("shell", "cp", "tests/smoke/params.yaml", "params.yaml")
    name = f"tli-stopped-{os.getpid()}"
    run(*services.compose, "run", "-d", "--name", name, "repro", env=services.env)
    try:
        logged(name, r"(?m)^Running stage 'base@microworld'", 300)
        second = services("shell", "true", status=2)
        time.sleep(3)
        start = time.monotonic()
        run("docker", "kill", "--signal", "TERM", name)
        status = run("docker", "wait", name, timeout=60).stdout.strip()
        seconds = time.monotonic() - start
        stopped = run("docker", "logs", name).stdout
    finally:
        run("docker", "rm", "-f", name)
    assert not list(services.out.iterdir()), "an interrupted run leaves no results"
    text = services("repro")
    return {"second": second, "status": status, "seconds": str(seconds), "stopped": stopped, "resumed": text}


def test_sigterm_ends_the_run_in_time_and_the_next_one_goes_on(finished: dict[str, str]) -> None:
    assert float(finished["seconds"]) < 10
    assert finished["status"] == "143"
    done = ran(finished["stopped"])[:-1]  # all but the stage that was stopped
    assert {"check", "words@microworld", "microworld@microworld"} <= set(done)
    assert not set(done) & set(ran(finished["resumed"])), "what was done is not done again"
    assert ran(finished["resumed"])[0] == "base@microworld"


def test_two_containers_do_not_share_a_workspace(finished: dict[str, str]) -> None:
    assert "tli: /workspace: another container is at work" in finished["second"]


def test_the_numbers_are_those_outside(finished: dict[str, str], services: Services, outside: Future[Checkout]) -> None:
    """Every row, model, table and figure, to the byte: same wheels, same processor, no tolerance."""
    checkout = outside.result()
    expected, got = checkout.digests("build", "results", "paper"), services.digests()
    assert len(expected) > 50
    assert {name: got.get(name) for name in expected} == expected
    theirs, ours = (
        YAML(typ="safe", pure=True).load((folder / "dvc.lock").read_text(encoding="utf-8"))["stages"]
        for folder in (checkout.root, services.out)
    )
    assert {name: ours.get(name) for name in theirs} == theirs  # ours has the committed run's other ranks, too


def test_the_results_come_out_owned_by_the_caller(finished: dict[str, str], services: Services) -> None:
    assert finished["resumed"].splitlines()[-1].startswith("out ")
    paths = list(services.out.rglob("*"))
    assert {f"{path.stat().st_uid}:{path.stat().st_gid}" for path in paths} == {USER}
    files = {str(path.relative_to(services.out)): sha256_of(path) for path in paths if path.is_file()}
    inside = services.digests()
    results = {
        name: inside[name] for name in inside if name.startswith(("results/", "paper/tables/", "paper/figures/"))
    }
    assert {name: files.get(name) for name in results} == results
    assert "dvc.lock" in files
    assert any(re.fullmatch(r"paper/tables/README\.md", name) for name in files)


def test_an_experiment_runs_inside(finished: dict[str, str], services: Services) -> None:
    text = services("shell", "dvc", "exp", "run", "-S", "lora.rank=8")
    assert {name.split("@")[0] for name in ran(text)} - {"check"} == EXAMPLES["A rank"][1]
    assert "Ran experiment" in text


def test_the_tests_run_inside(services: Services) -> None:
    tests = "TESTS=tests/unit/test_store.py tests/docs/test_repository.py"
    assert re.search(r"\d+ passed", services("test", "make", "test", tests, "ARGS=-q"))


def test_a_mounted_checkout_is_worked_in(image: str, tmp_path: Path) -> None:
    run("git", "clone", "-q", ROOT, tmp_path / "project")
    run("chown", "-R", USER, tmp_path / "project")
    start = ["docker", "run", "--rm", "--network", "none", "--read-only", "--tmpfs", "/tmp", "-u", USER]
    start += ["-v", f"{tmp_path}/project:/workspace/tli", image]
    run(*start, "bash", "-c", "make data && dvc repro words && git status --porcelain")
    made = tmp_path / "project" / "build" / "microworld" / "pairs.tsv"
    assert f"{made.stat().st_uid}:{made.stat().st_gid}" == USER
    (tmp_path / "project" / "requirements" / "run.txt").write_text("", encoding="utf-8")
    said = run(*start, "true", ok=False)
    assert said.returncode == 2
    assert "requirements/run.txt: not the list that this image was built from" in said.stdout
