"""Several GPUs: how many ranks can share a model, and how they talk to each other."""

from __future__ import annotations

from gearshift.doctor._signature import Fix, Found, Signature, Tier
from gearshift.doctor.causes import Cause
from gearshift.engine.geometry import legal_tensor_parallel

_CUT = "So many GPUs would cut the quantized weights in the middle of a group."
_SPARE = "; further GPUs can be used with --pipeline-parallel-size"


def _legal(found: Found) -> Fix:
    """The sizes that the model allows, from its shape if it is known, else from the message."""
    asked = found.told.ranks or (int(found.number("size")) if found.parts.get("size") else None)
    shape = found.told.shape
    heads = found.parts.get("heads")
    if shape is not None:
        sizes = legal_tensor_parallel(shape, 8)
        why = f"this model has {shape.heads} attention heads and {shape.kv_heads} KV heads"
    elif heads:
        count = int(found.number("heads"))
        sizes = [size for size in range(1, 9) if count % size == 0]
        if "vocab" in (found.parts.get("what") or ""):
            why = f"it has a vocabulary of {count}"
        else:
            why = f"it has {count} heads (its KV heads, num_key_value_heads, may allow fewer sizes)"
    else:
        return Fix(
            "take a --tensor-parallel-size that divides the model's attention heads and its KV "
            f"heads (num_key_value_heads in its config.json); 1 always can{_SPARE}"
        )
    return _one_of(sizes, asked, why)


def _one_of(sizes: list[int], asked: int | None, why: str) -> Fix:
    """The sizes for the GPUs that there are, and those that more GPUs would allow."""
    smaller = [size for size in sizes if asked is None or size < asked] or [1]
    larger = [size for size in sizes if asked is not None and size > asked]
    more = f" (with more GPUs {_named(larger)})" if larger else ""
    best = max(size for size in smaller if size in (1, 2, 4, 8))  # as GPUs are bought
    return Fix(
        f"--tensor-parallel-size {_named(smaller)}{more}: {why}{_SPARE}",
        {"tensor_parallel_size": str(best)},
    )


def _named(sizes: list[int]) -> str:
    return " or ".join(filter(None, (", ".join(map(str, sizes[:-1])), str(sizes[-1]))))


def _whole_groups(found: Found) -> Fix:
    """The sizes that leave the groups of the weights whole."""
    asked, shape = found.told.ranks, found.told.shape
    others = "or the same model in FP8 or 16 bits"
    if asked is None or (shape is None and not found.parts.get("part")):
        return Fix(f"take a smaller --tensor-parallel-size (1 always can), {others}{_SPARE}")
    sizes = legal_tensor_parallel(shape, asked - 1) if shape else [*range(1, asked)]
    why = "these leave the groups of the quantized weights whole"
    if found.parts.get("part"):
        whole, group = int(found.number("part")) * asked, int(found.number("group"))
        sizes = [n for n in sizes if whole % n == 0 and whole // n % group == 0]
        why = f"parts of {whole} are then multiples of {group}"
    fix = _one_of(sizes or [1], asked, why)
    return Fix(f"{fix.text}; {others}", fix.options)


def _as_many_as_there_are(found: Found) -> Fix:
    there = int(found.number("there"))
    shape = found.told.shape
    sizes = legal_tensor_parallel(shape, max(there, 1)) if shape else list(range(1, there + 1))
    if there < 1:
        return Fix("no GPU is visible: see CUDA_VISIBLE_DEVICES, and --gpus all in a container")
    return Fix(
        f"--tensor-parallel-size {sizes[-1]} with the {there} GPUs that are visible (see "
        "CUDA_VISIBLE_DEVICES), or more machines with --distributed-executor-backend ray",
        {"tensor_parallel_size": str(sizes[-1])},
    )


SIGNATURES = (
    Signature(
        Cause.TP_HEADS,
        (
            r"(?P<what>total number of (?:attention|kv|key.value|hidden)? ?heads|vocabulary size|"
            r"number of (?:attention |kv )?heads|intermediate size|hidden size|num_heads) "
            r"\((?P<heads>\d+)\) must be divisible by (?:the )?tensor parallel size "
            r"\((?P<size>\d+)\)",
            r"(?P<heads>\d+) is not divisible by (?P<size>\d+)",
        ),
        "The model's heads cannot be shared out evenly over so many GPUs.",
        _legal,
        unless=r"min_thread_[kn]|group_size|block_[nk]",
    ),
    Signature(
        Cause.TP_HEADS,
        (
            r"must be divisible by (?:the )?tensor[ _-]parallel(?:ism|_size)?",
            r"must be divisible by tp(?:_size)?\b",
            r"assert (?:self\.)?(?:total_)?num_(?:kv_|attention_)?heads % (?:self\.)?"
            r"(?:tp_size|tensor_model_parallel_world_size|tensor_parallel_size)",
            r"assert (?:self\.)?(?:tp_size|tensor_model_parallel_world_size) % "
            r"(?:self\.)?total_num_kv_heads",
            r"heads? (?:count )?(?:is|are) not (?:evenly )?divisible by",
            r"(?:attention|kv|key.value) heads…(?:not |be )(?:evenly )?divisible by",
        ),
        "The model's heads cannot be shared out evenly over so many GPUs.",
        _legal,
    ),
    Signature(
        Cause.QUANTIZED_SHARDS,
        (
            r"= ?(?P<part>\d+)(?: for layer \S+)? is not divisible by (?:weight quantization )?"
            r"(?:block_[nk]|group_size|min_thread_[kn]) ?= ?(?P<group>[1-9]\d*)",
        ),
        _CUT,
        _whole_groups,
    ),
    Signature(
        Cause.QUANTIZED_SHARDS,
        (
            r"(?:input|output) size is not aligned with the quantized weight shape",
            r"(?:input|output)_size_per_partition ?= ?\d+(?: for layer \S+)? is not divisible by",
            r"not divisible by (?:weight quantization )?(?:block_[nk]|group_size|min_thread_[kn])",
            r"size_[kn] must (?:be )?divisible by block_size_[kn]",
            r"not a whole number of quant groups",
        ),
        _CUT,
        _whole_groups,
    ),
    Signature(
        Cause.TP_GPUS,
        (
            r"world size \(\d+\) is larger than the number of available gpus \((?P<there>\d+)\)",
            r"tensor parallel size \(\d+\) cannot be larger than the number of available gpus "
            r"\((?P<there>\d+)\)",
        ),
        "More GPUs were asked for than vLLM can see.",
        _as_many_as_there_are,
        informs=True,
    ),
    Signature(
        Cause.TP_GPUS,
        (
            r"number of (?:required )?gpus exceeds the total number of (?:available )?gpus",
            r"world size…(?:is larger than|exceeds) the number of (?:available )?gpus",
            r"(?:tensor.parallel.size|--?tp)…(?:larger|greater|more|higher|exceeds?)… "
            r"(?:available )?gpus",
            r"world_size \(\d+\) is less than (?:than )?max local gpu count",
            r"set tensor_parallel_size \(\d+\) to less than max local gpu count",
            r"invalid device ordinal",
            r"cudaerrorinvaliddevice\b",
            r"no available node types can fulfill resource request",
            r"dp adjusted local rank \d+ is out of bounds",
            r"current node has no gpu available",
            r"don.t have enough gpus available in (?:a|the) current node",
            r"exceeds the number of visible \w+ devices",
            r"ray does not allocate any gpus on the driver node",
            r"gpus per node is not divisible by the (?:number of )?tensor.parallel",
            r"cannot provide a placement group",
            r"requires? \d+ gpus?,? but only \d+",
        ),
        "More GPUs were asked for than vLLM can see.",
        "lower --tensor-parallel-size to the GPUs that are visible (CUDA_VISIBLE_DEVICES; the "
        "limit of the pod or of the Ray cluster: ray status), or give it more",
        informs=True,
    ),
    Signature(
        Cause.TP_GPUS,
        (r"waiting for creating a placement group",),
        "Ray waits for GPUs that its cluster does not have, or sees under another address.",
        "compare `ray status` with what was asked for; set VLLM_HOST_IP on each machine, and take "
        "--distributed-executor-backend mp on a single one",
        tier=Tier.GENERAL,
        informs=True,
    ),
    Signature(
        Cause.SHARED_MEMORY,
        (
            r"creating shared memory segment",
            r"/dev/shm… no space left",
            r"no space left on device… /dev/shm",
            r"/dev/shm[^\n]{0,60}(?:too small|太小|64 ?mi?b?\b)",
            r"insufficient shared memory",
            r"(?:unable|failed) to (?:open|create|allocate|mmap|write to) (?:a )?shared memory",
            r"shared memory… (?:too small|is not enough|limit|exhausted)",
            r"out of shared memory",
            r"instead of /dev/shm because /dev/shm has only",
            r"(?:increase|raise|set|enlarge)… (?:--)?shm[-_]size",
            r"\bbus error\b",
            r"\bsigbus\b",
            r"shm_open… (?:failed|no space|no such)",
            r"nccl_shm|/dev/shm/nccl-\w+… error",
        ),
        "The ranks pass data through shared memory (/dev/shm), and it is too small.",
        "give the container --ipc=host or --shm-size=8g (in Kubernetes: an emptyDir with medium "
        "Memory at /dev/shm)",
    ),
    Signature(
        Cause.NCCL_NVLS,
        (
            r"nvlink sharp",
            r"\bnvls\b…(?:fail|error|multicast|bind|not)",
            r"(?:fail|error|bind)…\bnvls\b",
            r"transport/nvls\.cc",
            r"cu(?:mem|multicast)\w*…multicast",
        ),
        "NCCL could not use the NVSwitch's multicast memory (NVLS).",
        "export NCCL_NVLS_ENABLE=0 and start again; see that the fabric manager runs",
    ),
    Signature(
        Cause.NCCL_OLD,
        (
            r"nccl error: invalid usage",
            r"ncclinvalidusage",
            r"nccl warn cuda failure (?:\d+ )?.?no kernel image",
            r"nccl… (?:too old|outdated|predates|does not support|older than)",
        ),
        "This NCCL is too old for the GPU, or two versions of it meet in one process.",
        "install vLLM into a fresh environment of its own, with the NCCL that its torch brings "
        "(the line 'vLLM is using nccl==' names it); do not set VLLM_NCCL_SO_PATH",
    ),
    Signature(
        Cause.NCCL,
        (
            r"nccl error",
            r"nccl(?:system|internal|remote|unhandledcuda)error",
            r"nccl(?: \w+)?: unhandled (?:system|cuda) error",
            r"unhandled (?:system|cuda) error,? \(?(?:run with )?nccl",
            r"dist(?:backend|network|store)error",
            r"setting up nccl communicator",
            r"gloo connectfullmesh failed",
            r"nccl warn (?:bootstrap|net|cuda failure|call to|error)",
            r"nccl warn [^\n]*(?:fail|error|refused|abort|timed? ?out|no route)",
            r"failed to (?:init|initialize|create)… nccl",
            r"nccl… (?:init|communicator)… (?:fail|timed out|timeout|hang|abort)",
            r"ncclcomminitrank… (?:fail|error)",
            r"collective operation timeout",
            r"no socket interface found",
            r"failed to connect to peer node",
            r"vllm is using nccl==[^\n]*\s*(?:\(?(?:hangs?|stuck|nothing more|no further output))",
        ),
        "The GPUs could not be joined: NCCL failed.",
        "run with NCCL_DEBUG=INFO to see why; try NCCL_P2P_DISABLE=1, then the right "
        "NCCL_SOCKET_IFNAME; in a container also --ipc=host and --ulimit memlock=-1",
        tier=Tier.GENERAL,
    ),
)
