"""The model: whether vLLM knows it, its context, its template, its tools."""

from __future__ import annotations

from gearshift.doctor._signature import Fix, Found, Signature, Tier
from gearshift.doctor.causes import Cause
from gearshift.engine.families import parsers


def _own_length(found: Found) -> Fix:
    own = int(found.number("own"))
    return Fix(
        f"start with --max-model-len {own}, the longest that the model was made for; longer ones "
        "need its rope scaling (--hf-overrides)",
        {"max_model_len": str(own)},
    )


def _shorten(found: Found) -> Fix:
    most = int(found.number("most"))
    asked = int(found.number("asked"))
    return Fix(
        f"send {asked - most} tokens less: fewer or shorter sources, or lower max_tokens; or "
        f"start the server with --max-model-len {asked} or more, if the model allows it"
    )


def _tool_parser(found: Found) -> Fix:
    parser = parsers(found.told.model or "").tool
    if parser is None:
        return Fix(
            "start with --enable-auto-tool-choice --tool-call-parser NAME (hermes for Qwen, "
            "llama3_json for Llama 3, mistral for Mistral), or send tool_choice none"
        )
    return Fix(
        f"start with --enable-auto-tool-choice --tool-call-parser {parser}",
        {"enable_auto_tool_choice": "True", "tool_call_parser": parser},
    )


SIGNATURES = (
    Signature(
        Cause.CONTEXT_ABOVE_MODEL,
        (
            r"max_model_len \((?P<asked>\d+)\) is greater than the derived max_model_len "
            r"\([\w ]+=(?P<own>\d+)",
        ),
        "The context asked for is longer than the model was made for.",
        _own_length,
    ),
    Signature(
        Cause.CONTEXT_ABOVE_MODEL,
        (
            r"greater than the (?:derived|drived) max_model_len",
            r"user-specified max_model_len",
            r"max_model_len… (?:larger|greater|longer|bigger|exceeds)… (?:derived|"
            r"max_position_embeddings|model.s (?:own )?(?:maximum|limit|context))",
        ),
        "The context asked for is longer than the model was made for.",
        "set --max-model-len to max_position_embeddings of the model's config.json, or less",
    ),
    Signature(
        Cause.CONTEXT_EXCEEDED,
        (
            r"maximum context length is (?P<most>\d+) tokens?\.? however,? you requested "
            r"(?P<asked>\d+) tokens",
            r"maximum context length is (?P<most>\d+) tokens?\.? however,? you requested \d+ "
            r"output tokens and your prompt contains… total of at least (?P<asked>\d+)",
            r"prompt \((?:total )?length (?P<asked>\d+)\) is (?:too long to fit into the model "
            r"\(context length|longer than the maximum model length of) (?P<most>\d+)",
            r"your request has (?P<asked>\d+) input tokens… maximum context length is "
            r"(?P<most>\d+)",
            r"request \((?P<asked>\d+) tokens\) exceeds the available context size "
            r"\((?P<most>\d+)",
        ),
        "Prompt and answer together are longer than the server's context.",
        _shorten,
    ),
    Signature(
        Cause.CONTEXT_EXCEEDED,
        (
            r"maximum context length is",
            r"model.s context length is only \d+",
            r"max_tokens must be at least 1, got -\d+",
            r"longer than the maximum model length",
            r"too long to fit into the model",
            r"input prompt \(\d+ tokens\) is too long",
            r"context_length_exceeded",
            r"please reduce the length of the (?:messages|input|prompt)",
            r"max_(?:completion_)?tokens.{0,3} is too large",
            r"prompt is (?:too long|longer than the (?:context|maximum))",
            r"exceeds? (?:the )?(?:model.s )?(?:available |maximum |max )?(?:allowed )?context "
            r"(?:size|length|window)",
            r"input length exceeds (?:the )?(?:maximum )?context length",
            r"number of tokens… exceeds… (?:max_model_len|context)",
        ),
        "Prompt and answer together are longer than the server's context.",
        "send fewer or shorter sources or lower max_tokens; or serve with a longer --max-model-len",
        unless=r"user-specified max_model_len",
    ),
    Signature(
        Cause.CHAT_TEMPLATE,
        (
            r"default chat template is no longer allowed",
            r"tokenizer\.chat_template is not set",
            r"cannot use chat template functions",
            r"must provide a chat template",
            r"(?:does not|doesn.t|not) (?:have|define|contain|provide) a (?:default )?"
            r"chat.?template",
            r"(?:no|missing) chat.?template (?:is |was )?(?:found|defined|provided|set|available|"
            r"given|in)",
            r"chat.?template (?:is |was )?(?:missing|not (?:found|defined|set|provided))",
        ),
        "The model brings no chat template: it is a base model, or its files lack it.",
        "take the -Instruct (or -it) model, or start with --chat-template FILE.jinja, the template "
        "of this very model; a base model has /v1/completions alone",
    ),
    Signature(
        Cause.TOOL_FLAGS,
        (
            r"tool choice requires --enable-auto-tool-choice",
            r"requires? --?enable-auto-tool-choice",
            r"enable-auto-tool-choice requires",
            r"--tool-call-parser(?: to be)? (?:is )?(?:set|required|missing)",
            r"enable-auto-tool-choice (?:and|or) --tool-call-parser",
        ),
        "The client sends tools, and the server was not started for them.",
        _tool_parser,
    ),
    Signature(
        Cause.MODEL_NOT_SERVED,
        (
            r"the model .{0,2}(?P<name>[\w./:-]+).{0,2} does not exist",
            r"model_not_found… does not exist",
        ),
        "The client asks for a name under which the server has no model.",
        "GET /v1/models lists its names; serve with --served-model-name, the Hub id and other "
        "names after it, to keep old clients working",
    ),
    Signature(
        Cause.INSPECT_FAILED,
        (r"failed to be inspected", r"error in inspecting model architecture"),
        "vLLM could not import its own code of this model: a package is missing or outdated.",
        "read the ImportError above it in the log; a fresh engine environment mends most: "
        "gearshift engine remove, then gearshift engine install",
    ),
    Signature(
        Cause.VLLM_ARCHITECTURE,
        (
            r"model architectures? .{0,80}? (?:are|is) not supported",
            r"supported architectures: ",
            r"has no vllm implementation",
            r"no model architectures are specified",
            r"for arch in architectures:?\s+typeerror",
            r"model class [\w.]+ (?:is )?not supported",
            r"is not a registered model in the transformers library",
            r"architecture .{0,4}\w+for\w+.{0,4} (?:is )?(?:not|un)\s?supported",
        ),
        "This vLLM has no code for the model's architecture.",
        "upgrade vLLM (gearshift engine remove, then install), try --model-impl transformers, or "
        "take another model; a config.json without architectures needs them added",
        unless=r"failed to be inspected",
    ),
    Signature(
        Cause.GGUF_ARCHITECTURE,
        (
            r"gguf model with architecture .{0,30}? is not supported",
            r"unknown gguf model_type",
            r"gguf architecture .{0,30}? (?:is )?not supported",
            r"architecture [\w.-]+ (?:is )?not supported… gguf",
            r"gguf… (?:unsupported|not supported|unknown) (?:model )?(?:architecture|model_type)",
            r"gguf… architecture… (?:is )?not (?:yet )?supported",
        ),
        "This GGUF file's architecture cannot be loaded by transformers, which vLLM uses for it.",
        "serve the model's safetensors repository from the Hub instead of the GGUF; llama.cpp and "
        "Ollama go on serving the file",
    ),
    Signature(
        Cause.TRANSFORMERS_NEW,
        (
            r"all_special_tokens_extended",
            r"is already used by a transformers config",
            r"transformers (?:v?5[\w.]*|is too new|>= ?5)… (?:incompatible|not compatible|"
            r"not supported|breaks?|removed|requires? <)",
            r"(?:pin|downgrade|install|requires?) transformers ?(?:<|==|to (?:v?4|<))",
            r"transformers<5(?!\.?\d)",
            r"cannot import name .{0,3}(?!\w*(?:config|processor|model|forcausallm|"
            r"forconditionalgeneration|tokenizer|tokenizerfast)\b)\w+.{0,3} from "
            r".{0,3}transformers",
            r"config.{0,3} object has no attribute .{0,3}rope_(?:theta|scaling)",
            r"tokenizersbackend has no attribute",
            r"processor\.__init__\(\) got (?:multiple values|an unexpected keyword)",
        ),
        "The installed transformers is newer than this vLLM can work with.",
        "upgrade vLLM, or pin transformers below 5 (such as 4.57) in its environment; gearshift "
        "engine install makes one in which they fit",
    ),
    Signature(
        Cause.TRANSFORMERS_OLD,
        (
            r"transformers does not recognize this architecture",
            r"your version of transformers is out of date",
            r"tokenizer class \w+ does not exist",
            r"(?:please )?(?:upgrade|update) (?:your )?transformers",
            r"requires? (?:a newer version of )?transformers ?(?:>=|>|version|from source)",
            r"cannot import name .{0,3}\w*(?:config|processor|model|forcausallm|"
            r"forconditionalgeneration|tokenizer|tokenizerfast).{0,3} from .{0,3}transformers",
            r"configuration_auto\.py…\s+(?:[^\n]*\n){0,3}?[^\n]*keyerror",
            r"keyerror: [^\n]*\s*(?:[^\n]*\n){0,3}?[^\n]*config(?:uration_auto\.py|_mapping\[)",
            r"keyerror: ['\"](?:qwen|llama|gemma|mi[nx]?i?stral|mixtral|phi|deepseek|glm|gpt_oss|"
            r"granite|olmo|smollm|command|cohere|kimi|minimax|exaone|nemotron|internvl|ernie|lfm)"
            r"\w*['\"]",
            r"rope_scaling.{0,3} must be a dictionary with two fields",
            r"unrecognized (?:model|configuration class) ",
            r"has no attribute .{0,3}\w+(?:config|forcausallm|forconditionalgeneration)\b",
            r"no module named .{0,3}transformers\.models\.",
        ),
        "The model is newer than the installed transformers.",
        "upgrade vLLM, which brings a transformers that fits (gearshift engine remove, then "
        "install); transformers alone seldom is enough",
    ),
    Signature(
        Cause.REMOTE_CODE,
        (
            r"contains custom code which must be executed",
            r"(?:pass|set|setting|use|using|with|add|needs?|requires?|argument|option)\W{1,3}"
            r"(?:the )?(?:argument |option )?.{0,2}trust_remote_code ?= ?true",
            r"(?:pass|set|using|add|needs?|requires?|without) "
            r"(?:the )?(?:argument |option |flag )?.{0,2}--trust-remote-code",
            r"allow custom code to be run",
            r"execut\w+ (?:the )?(?:remote|custom) code",
        ),
        "The model brings code of its own, which runs only when you say so.",
        "read that code on the model's page; if you trust it, start with --trust-remote-code",
    ),
    Signature(
        Cause.WEIGHTS_DAMAGED,
        (
            r"safetensor\w*error",
            r"error while deserializing header",
            r"headertoo(?:large|small)",
            r"invalid json in header",
            r"git-lfs\.github\.com/spec",
            r"without having git-lfs installed",
            r"no file named [^\n]{0,100}(?:safetensors|pytorch_model)… found in directory",
            r"metadataincompletebuffer",
            r"pytorchstreamreader failed",
            r"cannot find any model weights",
        ),
        "The files of the weights are cut off, missing, or mere pointers to others.",
        "download them again (with git: git lfs pull), and see that the disk was not full",
        tier=Tier.GENERAL,
    ),
    Signature(
        Cause.QUANTIZATION_OTHER,
        (
            r"cannot find the config file for \w+",
            r"quantization method specified in the model config… does not match",
        ),
        "The model's weights are not quantized in the way that was asked for.",
        "leave --quantization out: vLLM reads it from the model's config.json; for a quantized "
        "model take a repository that holds one (-AWQ, -GPTQ-Int4, -FP8)",
    ),
    Signature(
        Cause.WEIGHTS_OTHER,
        (
            r"assert param(?:_data)?\.(?:shape|size\(\)) == loaded_weight",
            r"(?:attempted|tried) to load weights? [^\n]{0,80}(?:into|to) a? ?parameter",
            r"weights were not initialized from checkpoint",
        ),
        "The weights do not fit the model's config.json, or this vLLM's code of it.",
        "upgrade vLLM (gearshift engine remove, then install); weights of bitsandbytes want "
        "--quantization bitsandbytes; an adapter or a fine-tuned model needs its own config.json",
        tier=Tier.GENERAL,
    ),
)
