"""What the GPU itself can and cannot do."""

from __future__ import annotations

from gearshift.doctor._signature import Fix, Found, Signature, Tier
from gearshift.doctor.causes import Cause


def _half(_: Found) -> Fix:
    return Fix(
        "start with --dtype half (16-bit floats without bfloat16); Gemma models overflow in it and "
        "need --dtype float32 or a newer GPU",
        {"dtype": "half"},
    )


_ASSEMBLER = (
    "take a vLLM built for CUDA 13, or set TRITON_PTXAS_PATH=/usr/local/cuda/bin/ptxas to that of "
    "a newer CUDA toolkit"
)

SIGNATURES = (
    Signature(
        Cause.BF16,
        (
            r"bf(?:loa)?t?16 is only supported on",
            r"(?:does not|doesn.t) support bf(?:loat)?16",
            r"bf(?:loat)?16… (?:is )?(?:not |un)supported (?:on|by|for)",
            r"setup doesn.t support bf16",
            r"feature .{0,2}\.bf16.{0,2} requires \.?target sm_80",
            r"no (?:native )?bf(?:loat)?16 support",
            r"explicitly setting the .?dtype.? flag in cli",
        ),
        "This GPU has no bfloat16: it came with compute capability 8.0 (T4 and V100 are older).",
        _half,
    ),
    Signature(
        Cause.QUANTIZATION,
        (
            r"quantization (?:method|scheme) [\w.-]* ?is not supported for the current gpu",
            r"min(?:imum)? capability: \d+",
            r"marlin does not support",
            r"scaled_mm… (?:is )?only supported (?:on|for)",
            r"no compiled cutlass_\w+ for… (?:cuda )?device capability:? \d\d\b",
            r"fp8e4nv not supported",
            r"fp8e4(?:nv|m3\w*)… not supported",
            r"(?:fp8|w8a8|nvfp4|mxfp4|fp4|marlin|awq|gptq|int8|quantization)[^\n.]{0,60} "
            r"(?:requires?|needs|only supported on|only supports)[^\n.]{0,60} "
            r"(?:capability|sm_?\d|ada|hopper|blackwell|ampere|turing)",
            r"(?:fp8|w8a8|nvfp4|mxfp4|fp4|marlin|awq|gptq|bitsandbytes|compressedtensors)\w* "
            r"(?:[\w.-]+ ){0,4}(?:is |are )?(?:not|un)\s?supported (?:on|by|for) "
            r"(?:this|the|your|current|turing|volta|ampere|pascal|sm_?\d|cuda|rocm)",
            r"current platform… does not support… quantization",
        ),
        "This GPU is too old for the way in which the weights are quantized.",
        "take the model in 16 bits or in another quantization (AWQ wants compute capability 7.5, "
        "Marlin kernels 8.0, FP8 8.9), or a newer GPU",
        unless=r"gguf model with architecture",
    ),
    Signature(
        Cause.QUANTIZATION,
        (r"failed to find a kernel that can implement the \w+ linear layer",),
        "No kernel for such quantized weights runs on this GPU, or cut into so many shards.",
        "take the model in 16 bits or in another quantization, a smaller "
        "--tensor-parallel-size, or a newer GPU; the lines below name each kernel's reason",
        tier=Tier.GENERAL,
    ),
    Signature(
        Cause.FLASH_ATTENTION,
        (
            r"flash ?-?attention… only supports? (?:ampere|hopper|blackwell|devices|gpus?)",
            r"flash ?-?attention… (?:is|are) only (?:supported|available)",
            r"fa ?version \d is not supported",
            r"backend… not valid for this configuration… compute capability",
            r"\bfa[234] is only supported on",
            r"flash ?-?attention(?:[ -]?\d)? (?:is )?not (?:supported|available) (?:on|for|by)… "
            r"(?:gpu|device|volta|turing|capability)",
            r"flash_?attn… (?:requires|needs)… (?:ampere|compute capability|sm_?\d)",
        ),
        "This GPU is too old for FlashAttention.",
        "choose another backend: --attention-backend TRITON_ATTN (in older versions "
        "VLLM_ATTENTION_BACKEND=XFORMERS)",
    ),
    Signature(
        Cause.FLASH_ATTENTION,
        (r"cannot use flash ?-?attention(?:-?\d)? backend for volta and turing",),
        "This GPU is too old for FlashAttention; vLLM takes another, slower backend.",
        "nothing has to be done if the server starts; else --attention-backend TRITON_ATTN",
        tier=Tier.NOTICE,
    ),
    Signature(
        Cause.PTXAS,
        (
            r"is not defined for option .{0,3}gpu-name",
            r"unsupported gpu architecture .{0,3}compute_",
            r".sm_\d+\w?. is not a recognized processor",
            r"unsupported \.version \d",
        ),
        "The assembler that Triton or nvcc brought does not know a GPU this new.",
        _ASSEMBLER,
    ),
    Signature(
        Cause.PTXAS,
        (r"ptxas fatal", r"ptx(?:as)? (?:codegen )?error", r"ptxaserror"),
        "The assembler that Triton or nvcc brought could not make the kernel for this GPU.",
        _ASSEMBLER,
        tier=Tier.GENERAL,
    ),
    Signature(
        Cause.COMPUTE_CAPABILITY,
        (
            r"no kernel image is available",
            r"device kernel image is invalid",
            r"ptx instruction is not supported on your gpu",
            r"hiperrornobinaryforgpu",
            r"hip error: invalid device function",
            r"cudaerrornokernelimagefordevice",
            r"cuda capability sm_?\d+ is not compatible",
            r"not compatible with the current pytorch installation",
            r"pytorch no longer supports this gpu",
            r"minimum cuda capability supported by this library",
            r"minimum and maximum cuda capability supported",
            r"no compiled cutlass_\w+ for… (?:cuda )?device capability:? 1\d\d\b",
            r"compute capability (?:below|less than|lower than|under) 7\.0",
            r"no (?:sm_\d+\w?|blackwell|pascal) kernels",
            r"(?:unsupported|insufficient) (?:cuda )?compute capability",
            r"requires? (?:a )?(?:gpu with )?(?:cuda )?compute capability (?:of )?(?:at least )?"
            r"[>= ]*[67]\.0",
            r"too old to be supported by the triton",
            r"only supports devices of cuda capability",
            r"sm_?1[0-9]{2}\w? is not (?:supported|compatible)",
        ),
        "This build of torch or vLLM has no kernels for this GPU: it is too new or too old.",
        "for a new GPU (RTX 50, B200: sm_100, sm_120) install vLLM with a torch of CUDA 12.8 or "
        "newer; below compute capability 7.0 (Pascal) no vLLM runs: stay with Ollama",
    ),
    Signature(
        Cause.BATCH_TOO_LARGE,
        (r"invalid configuration argument", r"cudaerrorinvalidconfiguration"),
        "A kernel was launched for more at once than it can take.",
        "lower --max-num-seqs to 256 or less",
    ),
    Signature(
        Cause.CUDA_ILLEGAL_ACCESS,
        (
            r"illegal memory access",
            r"cudaerrorillegaladdress",
            r"cuda_error_illegal_address",
            r"device-side assert",
            r"unspecified launch failure",
        ),
        "A kernel read or wrote where it must not: an error in it, or in its CUDA graph.",
        "start with --enforce-eager, or --compilation-config.cudagraph_mode=PIECEWISE, to see "
        "whether graphs are the cause; then a newer vLLM",
        tier=Tier.GENERAL,
        unless=r"ggml",
    ),
)
