"""Ollama: its server, its models, its memory."""

from __future__ import annotations

from gearshift.doctor._signature import Fix, Found, Signature, Tier
from gearshift.doctor.causes import Cause

_REFUSED = (
    r"(?:connection refused|actively refused|econnrefused|failed to establish a new connection|"
    r"failed to connect|could(?: not|n.t) connect|connection error|cannot connect|unreachable|"
    r"no connection could be made|connect call failed|all connection attempts failed)"
)

_NO_GPU = (
    "see that nvidia-smi works (container: docker run --gpus=all; after sleep: sudo rmmod "
    "nvidia_uvm && sudo modprobe nvidia_uvm), start Ollama again, then look at: ollama ps"
)


def _longer(found: Found) -> Fix:
    prompt = int(found.number("prompt"))
    length = -(-prompt // 1024) * 1024 + 1024
    return Fix(
        f"set num_ctx to {length} or more (the prompt has {prompt} tokens): in the request's "
        f"options, by PARAMETER num_ctx in the Modelfile, or OLLAMA_CONTEXT_LENGTH={length} for "
        "the server; the default is 4096, and /v1 ignores the option"
    )


def _pull(found: Found) -> Fix:
    return Fix(f"ollama pull {found.parts['name']}")


SIGNATURES = (
    Signature(
        Cause.OLLAMA_RUNNING,
        (
            r"listen tcp\d? \S*:11434: bind",
            r"11434[^\n]{0,80}(?:address already in use|only one usage|10048|already in use)",
            r"(?:address already in use|only one usage|already in use|10048)[^\n]{0,80}11434",
            r"ollama\W+(?:is\W+)?already\W+running",
            r"bind: only one usage",
            r"listen tcp\d? \S+: bind: (?:address already|only one usage|winapi|an attempt)",
        ),
        "An Ollama listens on that port already.",
        "use the one that runs (curl http://127.0.0.1:11434), stop it (sudo systemctl stop ollama; "
        "the tray's icon on a desktop), or set OLLAMA_HOST=127.0.0.1:11435",
        unless=r"userland proxy|bind host port|already allocated|external connectivity",
    ),
    Signature(
        Cause.OLLAMA_DOWN,
        (
            r"11434[^\n]{0,300}" + _REFUSED,
            _REFUSED + r"[^\n]{0,200}11434",
            r"(?:could not|failed to|cannot|unable to|can.t) (?:connect|reach)(?: to)? (?:the )?"
            r"(?:local )?ollama",
            r"is ollama (?:running|up)",
            r"ollama (?:is )?(?:not|isn.t) (?:running|reachable|responding|available)",
            r"ollama (?:server|app|service)?… (?:not responding|not running|is it running)",
            r"ollama… " + _REFUSED,
            r"ollama serve.{0,3} (?:first|is running)",
        ),
        "No Ollama answers at that address.",
        "start it (ollama serve, or sudo systemctl start ollama) and see OLLAMA_HOST; inside a "
        "container localhost is the container: use http://host.docker.internal:11434 and let "
        "Ollama listen there",
        informs=True,
    ),
    Signature(
        Cause.OLLAMA_NOT_PULLED,
        (
            r"model .{0,3}?(?P<name>[\w./-]+(?::[\w.-]+)?).{0,3}? not found,? try pulling it first",
            r"ollama[^\n]{0,200}model .{0,3}?(?P<name>[\w./-]+(?::[\w.-]+)?).{0,3}? "
            r"(?:was )?not found",
            r"model ['\"](?P<name>[\w./:-]+)['\"] not found",
            r"model .{1,3}?(?P<name>[\w./-]+:[\w.-]+).{0,3}? (?:is |was )?not (?:found|pulled|"
            r"installed|available)",
        ),
        "Ollama does not have that model.",
        _pull,
        unless=r"try pulling it first[^\n]{0,5}$^",
    ),
    Signature(
        Cause.OLLAMA_NOT_PULLED,
        (r"try pulling it first", r"run .{0,3}ollama pull"),
        "Ollama does not have that model.",
        "ollama pull MODEL, with its exact tag (ollama list shows what is there)",
    ),
    Signature(
        Cause.OLLAMA_NAME,
        (
            r"pull model manifest: (?:file does not exist|.{0,20}not found|404)",
            r"manifest[^\n]{0,80}(?:file does not exist|does not exist|not found|unknown)",
            r"invalid model (?:name|path|reference)",
            r"pulling manifest[^\n]*\s*[^\n]{0,40}(?:file does not exist|not found)",
        ),
        "Ollama's registry has no model of that name and tag.",
        "correct name and tag (https://ollama.com/search lists them); a model of the Hub is "
        "hf.co/OWNER/NAME",
    ),
    Signature(
        Cause.OLLAMA_NO_TOOLS,
        (
            r"does not support tools",
            r"does not support (?:function|tool)[ -]?call",
            r"tools? (?:is|are) not supported",
        ),
        "The model's template cannot hold tools.",
        "take a model that lists tools among its capabilities (ollama show MODEL), or send none",
        unless=r"enable-auto-tool-choice",
    ),
    Signature(
        Cause.OLLAMA_RAM,
        (
            r"model requires more system memory",
            r"requires more (?:system )?(?:memory|ram)… than is available",
            r"requires at least… (?:gib|gb) of (?:system )?(?:memory|ram)",
        ),
        "The machine has too little free memory for the model.",
        "take a smaller model or quantization, lower num_ctx or OLLAMA_NUM_PARALLEL, end other "
        "programs, or give the container or WSL more memory",
        informs=True,
    ),
    Signature(
        Cause.OLLAMA_RAM,
        (r"model request too large for system",),
        "The machine has too little free memory for the model.",
        "take a smaller model or quantization, lower num_ctx, or end other programs",
        tier=Tier.GENERAL,
        informs=True,
    ),
    Signature(
        Cause.OLLAMA_QUEUE,
        (
            r"maximum pending requests exceeded",
            r"server busy,? please try again",
        ),
        "More requests wait than Ollama lets: it answers few at once.",
        "send fewer at once, raise OLLAMA_NUM_PARALLEL (and OLLAMA_MAX_QUEUE, 512), or shift to "
        "vLLM, which is made for this: gearshift switch vllm",
        informs=True,
    ),
    Signature(
        Cause.OLLAMA_TRUNCATED,
        (r"truncating input prompt[^\n]{0,40}?limit=\d+ prompt=(?P<prompt>\d+)",),
        "The prompt was cut to Ollama's context, without an error: sources and even the system "
        "prompt may be lost.",
        _longer,
        informs=True,
    ),
    Signature(
        Cause.OLLAMA_TRUNCATED,
        (
            r"truncating input prompt",
            r"(?:input|prompt|context|messages?) (?:is |was |were |has been |gets? |being )?"
            r"(?:silently )?truncated",
            r"silently (?:truncat|cut)",
            r"truncating input messages",
            r"exceeds? (?:num_ctx|ollama.s context)",
            r"num_ctx… (?:too small|truncat|exceed)",
            r"prompt is longer than the context length currently available",
        ),
        "The prompt was cut to Ollama's context, without an error: sources and even the system "
        "prompt may be lost.",
        "raise num_ctx in the request's options or OLLAMA_CONTEXT_LENGTH for the server (the "
        "default is 4096)",
        informs=True,
    ),
    Signature(
        Cause.OLLAMA_OLD,
        (
            r"requires a newer version of ollama",
            r"newer version of ollama",
            r"(?:upgrade|update) (?:your )?ollama",
            r"pull model manifest: 412",
            r"(?:not supported by|incompatible with) your version of ollama",
        ),
        "The model is newer than this Ollama.",
        "upgrade Ollama (on Linux: run its install script again), then pull the model again",
    ),
    Signature(
        Cause.OLLAMA_CORRUPT,
        (
            r"digest mismatch",
            r"must be downloaded again",
            r"invalid file magic",
            r"(?:sha256|checksum) (?:mismatch|verification failed)",
            r"pull[^\n]{0,80}unexpected eof",
            r"unexpected eof[^\n]{0,80}pull",
            r"max retries exceeded: unexpected eof",
        ),
        "A download was damaged on its way.",
        "ollama pull MODEL once more (ollama rm MODEL first if it recurs); check disk and proxy",
    ),
    Signature(
        Cause.OLLAMA_ARCHITECTURE,
        (
            r"unknown model architecture",
            r"unsupported (?:model )?architecture:? ?['\"\[]",
            r"error loading model architecture",
        ),
        "This Ollama (its llama.cpp) does not know the model's architecture.",
        "upgrade Ollama, or take the model from Ollama's own library in place of that GGUF",
        unless=r"model architectures|gguf model with|vllm/",
    ),
    Signature(
        Cause.OLLAMA_VRAM,
        (
            r"cudamalloc failed",
            r"hipmalloc failed",
            r"(?:failed|unable) to allocate (?:cuda|rocm|vulkan|metal|sycl)\d* buffer",
            r"alloc_tensor_range: failed",
            r"ggml_\w+: (?:error: )?(?:failed to allocate|out of memory)",
            r"failed to allocate (?:compute (?:\w+ )?|buffer for (?:the )?)(?:buffers?|kv cache)",
            r"(?:ggml|llama_)[^\n]*\s*(?:[^\n]*\n){0,4}?[^\n]*(?:cuda error: out of memory|"
            r"cuda_error_out_of_memory|out of (?:device )?memory)",
            r"cuda error: out of memory[^\n]*\n?[^\n]*(?:ggml|llama_)",
            r"erroroutofdevicememory",
            r"llama[ -](?:runner|server) process has terminated: (?!signal)[^\n]{0,100}"
            r"(?:out of memory|alloc_failed)",
            r"insufficient vram",
            r"memory layout cannot be allocated",
        ),
        "The GPU's memory does not suffice for the model that Ollama loads.",
        "lower num_ctx or num_gpu, take a smaller quantization, unload other models (ollama stop "
        "MODEL), and end what else holds the GPU",
        informs=True,
    ),
    Signature(
        Cause.OLLAMA_KILLED,
        (
            r"(?:runner|server|llama-server) process (?:has )?(?:terminated|no longer running):? "
            r".{0,10}signal: killed",
            r"(?:runner|server) process no longer running: -?1? ?signal: killed",
            r"killed process \d+ \((?:ollama|llama)[^\n]*",
            r"(?:ollama|llama[\w-]*)[^\n]{0,80}(?:oom-?kill|signal: killed|exit code 137)",
            r"(?:oom-?kill|oomkilled)[^\n]{0,120}(?:ollama|llama)",
        ),
        "The system ended Ollama's model process, because memory ran out.",
        "take a smaller model or context, or give the machine, container or WSL more memory",
        informs=True,
    ),
    Signature(
        Cause.OLLAMA_LOAD_TIMEOUT,
        (
            r"timed out waiting for (?:llama )?(?:runner|server|llama-server)(?: to start)?",
            r"client connection closed before (?:server|llama)[^\n]{0,20} finished loading",
            r"aborting load",
        ),
        "The model was not loaded in time, or the client went away meanwhile.",
        "set OLLAMA_LOAD_TIMEOUT=15m, give clients longer timeouts, or use a faster disk or a "
        "smaller model",
        informs=True,
    ),
    Signature(
        Cause.OLLAMA_AMD_DRIVER,
        (
            r"failure during gpu discovery",
            r"failed to finish discovery before timeout",
            r"bootstrap discovery took\W+duration=(?:\d+m|\d{2,}(?:\.\d+)?s)",
            r"amd driver is too old|amd driver is older",
            r"amdgpu driver[^\n]{0,40}(?:too old|old|upgrade|outdated)",
            r"rocm[^\n]{0,60}driver[^\n]{0,40}(?:too old|outdated|upgrade|older)",
        ),
        "Ollama's search for AMD GPUs hangs: the driver is too old for its ROCm.",
        "install the ROCm 7 driver (amdgpu-install), reboot, and start Ollama again",
        informs=True,
    ),
    Signature(
        Cause.OLLAMA_CRASHED,
        (
            r"(?:llama[ -])?(?:runner|server) process has terminated",
            r"runner process no longer running",
            r"model runner has unexpectedly stopped",
            r"an error was encountered while running the model",
            r"post .?https?://(?:127\.0\.0\.1|localhost):\d+/(?:completion|load|embedding)\W{1,4}"
            r"(?:eof|read tcp|dial tcp)",
            r"runner (?:has )?(?:crashed|unexpectedly stopped|exited)",
            r"error starting (?:the external )?(?:llama|runner)[^\n]*",
            r"llama[ -]runner[^\n]{0,60}(?:exit status|exited|crash|terminated)",
        ),
        "Ollama's model process ended by itself.",
        "read Ollama's log above this line (journalctl -u ollama -e) for the first error; upgrade "
        "Ollama and the driver if there is none",
        tier=Tier.GENERAL,
        informs=True,
    ),
    Signature(
        Cause.OLLAMA_GPU_UNUSED,
        (
            r"no compatible gpus? (?:were|was) discovered",
            r"offloaded 0/\d+ layers",
            r"no (?:[\w/]+ )?gpu detected… cpu-only",
            r"no suitable rocm found",
            r"no compatible amdgpu devices detected",
            r"gpu has too little memory to allocate any layers",
            r"cuda gpu is too old|old cuda driver detected",
            r"/dev/kfd[^\n]{0,60}permission denied",
            r"ggml_cuda_init: failed to initialize",
            r"\b[kmg]b 100% cpu\b",
            r"ollama ps\b[^\n]{0,40}\s(?:[^\n]*\n){0,2}?[^\n]*100% cpu",
            r"(?:no nvidia devices|no gpus?) detected[^\n]{0,60}(?:ollama|cpu)?",
            r"(?:falling|fall|fell) back to cpu",
            r"cuda driver library (?:failed|init failure|init err)",
            r"(?:nvcuda|nvml|libcuda) (?:init|initialization) fail",
            r"unable to load (?:cudart|nvcuda|nvml|rocm|cuda)[^\n]*init failure",
            r"ollama[^\n]{0,80}(?:not using|doesn.t use|does not use|ignores?|without) "
            r"(?:the |my |a )?gpu",
        ),
        "Ollama works on the processor: it finds no GPU that it can use.",
        _NO_GPU,
        tier=Tier.GENERAL,
        unless=r"vllm",
        informs=True,
    ),
    Signature(
        Cause.OLLAMA_GPU_UNUSED,
        (
            r"entering low vram mode[^\n]*total vram.{0,3}\"?0 b",
            r"library=cpu\b[^\n]*(?:total|available)=",
        ),
        "Ollama works on the processor: it finds no GPU that it can use.",
        _NO_GPU,
        tier=Tier.NOTICE,
        unless=r"vllm",
        informs=True,
    ),
    Signature(
        Cause.OLLAMA_GPU_PARTLY,
        (
            r"\b(?:[1-9]|[1-9]\d)%/(?:[1-9]|[1-9]\d)% cpu/gpu",
            r"offloaded (?!0/)(?P<on>\d+)/(?!(?P=on)\b)\d+ layers",
            r"layers\.model=(?P<all>\d+)[^\n]*layers\.offload=(?!0\b)(?!(?P=all)\b)\d+",
            r"partial(?:ly)? (?:gpu )?off-?load",
        ),
        "A part of the model is on the processor, because the GPU's memory is full: it is slower.",
        "take a smaller model, quantization or num_ctx, or unload other models (ollama stop MODEL)",
        tier=Tier.NOTICE,
        informs=True,
    ),
)
