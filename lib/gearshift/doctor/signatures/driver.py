"""Driver, CUDA libraries, containers, WSL."""

from __future__ import annotations

from gearshift.doctor._signature import Signature, Tier
from gearshift.doctor.causes import Cause

_SEE_GPU = (
    "see that `nvidia-smi` works in the same place (container: --gpus all), that "
    "CUDA_VISIBLE_DEVICES is not empty, and that the build fits: gearshift engine check; "
    "without a GPU: gearshift engine install takes the build for processors"
)

SIGNATURES = (
    Signature(
        Cause.DRIVER_MISMATCH,
        (
            r"driver/library version mismatch",
            r"libr(?:m)?versionmismatch",
            r"unsupported display driver ?/ ?cuda driver combination",
            r"\berror 803\b",
            r"cudaerrorsystemdrivermismatch|cuda_error_system_driver_mismatch",
            r"nvml library version: [\d.]+",
            r"api mismatch: the client has the version",
        ),
        "The driver's library is not of the version that the kernel runs, as after an upgrade.",
        "reboot, or reload the modules: sudo rmmod nvidia_uvm nvidia && sudo modprobe nvidia_uvm; "
        "in a container start it with --gpus all, and keep its own libcuda out of LD_LIBRARY_PATH",
        unless=r"ggml",
    ),
    Signature(
        Cause.DRIVER_OLD,
        (
            r"nvidia driver on your system is too old",
            r"driver version is insufficient",
            r"cudaerrorinsufficientdriver",
            r"unsupported toolchain",
            r"cuda_error_unsupported_ptx_version",
            r"unsatisfied condition: (?:cuda|driver)",
            r"built for nvidia driver release [\d.]+ or later, but version [\d.]+ was detected",
            r"please update your (?:gpu |nvidia |graphics )?driver",
            r"driver… (?:is )?too old for… (?:torch|cuda|pytorch|wheel)",
            r"cuda version… (?:is )?(?:newer|higher) than… (?:driver|supported)",
        ),
        "The NVIDIA driver is older than the CUDA that torch was built with.",
        "upgrade the driver (the number found, such as 12080, means CUDA 12.8), or install vLLM "
        "with a torch for that CUDA: uv pip install vllm --torch-backend=auto",
    ),
    Signature(
        Cause.FORWARD_COMPATIBILITY,
        (
            r"forward compatibility was attempted",
            r"\berror 804\b",
            r"cuda_error_compat_not_supported_on_device",
            r"cudaerrorcompatnotsupportedondevice",
        ),
        "The container brings a CUDA newer than the driver, which this GPU does not allow.",
        "take an image with a CUDA no newer than the driver's, or upgrade the driver and reboot; "
        "on GeForce cards remove the image's /usr/local/cuda/compat",
    ),
    Signature(
        Cause.FABRIC_MANAGER,
        (
            r"\berror 802\b",
            r"system not yet initialized",
            r"cudaerrorsystemnotready",
            r"cuda_error_system_not_ready",
            r"fabric ?-?manager… (?:not|fail|error|inactive|mismatch|dead|missing)",
            r"(?:start|install|restart|enable)… (?:nvidia-)?fabric ?-?manager",
        ),
        "The GPUs hang on an NVSwitch, and the fabric manager that sets it up does not run.",
        "install nvidia-fabricmanager in the very version of the driver, then: sudo systemctl "
        "enable --now nvidia-fabricmanager",
    ),
    Signature(
        Cause.LIBCUDA,
        (
            r"libcuda\.so(?:\.\d+)?(?:[:'\"` ]|… )(?:cannot|could not|not|no such|missing)",
            r"libcuda(?:\.so(?:\.\d)?)? (?:cannot|not) (?:be )?found",
            r"libnvidia-ml\.so(?:\.\d+)?… (?:cannot open|not found|no such)",
            r"(?:couldn.t|could not|cannot) find… libnvidia-ml",
            r"libcuda\.so[\w.]*:? file too short",
            r"cannot find -lcuda\b",
            r"couldn.t communicate with the nvidia driver",
            r"the nvidia driver was not detected",
            r"nvml shared library not found",
            r"nvmlerror_librarynotfound",
            r"(?:no|missing) libcuda\b",
            r"found no nvidia driver on your system",
        ),
        "The driver is not there or not loaded, or the container was not given its library.",
        "run `nvidia-smi`; where it works, start the container with --gpus all (the NVIDIA "
        "container toolkit puts libcuda.so.1 into it); where it does not, install the driver",
    ),
    Signature(
        Cause.NO_GPU,
        (
            r"torch not compiled with cuda enabled",
            r"no (?:cuda|hip|xpu) gpus are available",
            r"no cuda-capable device is detected",
            r"cudaerrornodevice",
            r"device string must not be empty",
            r"no (?:supported )?(?:gpu|accelerator) (?:was |were )?(?:found|detected)… vllm",
        ),
        "vLLM finds no GPU, or was installed in a build for another kind of device.",
        _SEE_GPU,
        unless=r"llama|ollama",
    ),
    Signature(
        Cause.NO_GPU,
        (
            r"failed to infer device type",
            r"torch\.cuda\.is_available\(\)[^\n]{0,20}(?:false|returns false)",
            r"no platform detected",
            r"unspecifiedplatform",
            r"setting the available devices to be zero",
            r"found no nvidia driver on your system",
        ),
        "vLLM finds no GPU, or was installed in a build for another kind of device.",
        _SEE_GPU,
        tier=Tier.GENERAL,
        unless=r"ollama",
    ),
    Signature(
        Cause.DOCKER_RUNTIME,
        (
            r"could not select device driver",
            r"unknown (?:or invalid )?runtime(?: name)?:? .{0,3}nvidia",
            r"unknown runtime specified nvidia",
            r"nvidia-container-(?:runtime|cli|toolkit)… (?:not found|not installed|"
            r"executable file not found|initialization error|command not found|missing|"
            r"device error|mount error|ldcache error|container error)",
            r"no known gpu vendor found",
            r"unresolvable cdi devices",
            r"failed to discover gpu vendor",
            r"(?:please install|missing|without|needs?|requires?)… nvidia[ -]container[ -]toolkit",
            r"nvidia[ -]container[ -]toolkit (?:is |was )?(?:not|missing)",
        ),
        "Docker cannot give the container the GPUs: the NVIDIA container toolkit is missing.",
        "install nvidia-container-toolkit, then: sudo nvidia-ctk runtime configure "
        "--runtime=docker && sudo systemctl restart docker",
        unless=r"unsatisfied condition|driver/library version mismatch",
    ),
    Signature(
        Cause.DOCKER_RUNTIME,
        (r"failed to initialize nvml: unknown error",),
        "The container has lost its GPUs, as happens when the host's systemd is reloaded.",
        'start the container again; so that it stays, put "exec-opts": '
        '["native.cgroupdriver=cgroupfs"] into /etc/docker/daemon.json, then: sudo systemctl '
        "restart docker",
    ),
    Signature(
        Cause.GPU_LOST,
        (
            r"gpu has fallen off the bus",
            r"gpu is lost",
            r"nvrm: xid [^\n]*: (?:79|48|95|119|120|154)\b",
            r"nvmlerror_gpuislost",
            r"uncorrectable ecc error",
        ),
        "The driver lost the GPU, or its memory has errors that cannot be corrected.",
        "reboot (or: sudo nvidia-smi --gpu-reset -i N); if it recurs see power, heat and the slot: "
        "sudo dmesg | grep -i xid",
    ),
    Signature(
        Cause.DOCKER_PERMISSION,
        (
            r"permission denied while trying to connect to the docker (?:daemon|api)",
            r"dial unix /var/run/docker\.sock: connect: permission denied",
        ),
        "This account may not use Docker.",
        "sudo usermod -aG docker $USER, then log in again; or put sudo in front",
    ),
    Signature(
        Cause.DOCKER_PORT,
        (
            r"port is already allocated",
            r"failed to bind host port",
            r"ports are not available",
            r"driver failed programming external connectivity",
            r"error starting userland proxy",
            r"failed to set up container networking… (?:port|bind)",
        ),
        "Another container or program has the port that Docker was to open.",
        "`docker ps` and `ss -ltnp` name it: end it, or publish another port, such as "
        "-p 127.0.0.1:8002:8000",
    ),
    Signature(
        Cause.WSL_UVA,
        (
            r"uva is not available",
            r"requires uva\b",
            r"unified virtual addressing… not (?:available|supported)",
            r"uva… (?:not available|unavailable|unsupported)",
        ),
        "Under WSL 2 memory cannot be pinned by default, and vLLM's new runner needs that.",
        "set VLLM_WSL2_ENABLE_PIN_MEMORY=1 (kernel 4.19.121 or newer), or "
        "VLLM_USE_V2_MODEL_RUNNER=0",
    ),
    Signature(
        Cause.WSL_PINNED,
        (
            r"pin_memory ?= ?false.{0,3} as wsl is detected",
            r"wsl… (?:can ?not|cannot|not|no) pin(?:ned)?[ _]memory",
            r"pin(?:ned)?[ _]memory… (?:wsl|disabled under wsl)",
        ),
        "A warning: under WSL 2 memory is not pinned, so copies to the GPU are slower.",
        "nothing has to be done; native Linux is faster. It is not why a start fails",
        tier=Tier.NOTICE,
    ),
)
