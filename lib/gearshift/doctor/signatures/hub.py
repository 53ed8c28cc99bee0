"""The Hugging Face Hub: access, names, network."""

from __future__ import annotations

from gearshift.doctor._signature import Signature, Tier
from gearshift.doctor.causes import Cause

_HUB = r"(?:huggingface\.co|\bhf\.co|huggingface|hf-mirror\.com|xethub)"

SIGNATURES = (
    Signature(
        Cause.HUB_NOT_FOUND,
        (
            r"repo id must (?:be|use)[^\n]{0,200}['\"](?P<path>[./~][^'\"\n]+)['\"]",
            r"invalid repository id or local directory specified: "
            r"['\"](?P<path>[./~][^'\"\n]+)['\"]",
        ),
        "There is no such folder here, so its path was taken for a name of the Hub.",
        "see that {path} exists where vLLM runs (ls {path}); a container sees only what it is "
        "given: -v {path}:{path}",
    ),
    Signature(
        Cause.HUB_NOT_FOUND,
        (
            r"repository ?not ?found",
            r"is not a valid model identifier",
            r"repo id must be in the form",
            r"hfvalidationerror",
            r"invalid repository id or local directory",
            r"repo_id… (?:is )?not (?:found|valid)",
            r"404 client error…" + _HUB,
            r"repo(?:sitory)? .{0,80}? (?:does not exist|not found)… (?:hub|" + _HUB + ")",
            r"does not appear to have a file named config\.json",
            r"can.t load (?:the configuration of|tokenizer for) ",
            r"(?:revision|(?<!local)entry) ?not ?found ?(?:error|for url)",
        ),
        "The Hub knows no repository of that name, or it is a private one.",
        "correct the id (owner/name, as on the model's page; a name from Ollama is none), or set "
        "HF_TOKEN if it is private",
        unless=r"gated repo(?!, make sure)|access to model",
    ),
    Signature(
        Cause.HUB_GATED,
        (
            r"gated ?repo",
            r"access to (?:the )?model .{0,80}? is restricted",
            r"must have access to it and be authenticated",
            r"awaiting a review from the repo authors",
            r"(?:40[13]) (?:client error|forbidden|unauthorized)…" + _HUB,
            _HUB + r"…\b(?:40[13]) (?:client error|forbidden|unauthorized)",
            r"cannot access gated",
            r"unauthorized to access… " + _HUB,
            r"(?:check|invalid|missing)… hugging ?face token",
            r"not in the authorized list",
            r"user access token… (?:is )?(?:expired|invalid)|invalid user token",
            r"(?:accept|agree to) the (?:model.s )?(?:license|licence|terms)…" + _HUB,
            r"invalid (?:user access )?token…" + _HUB,
        ),
        "The model's owner lets only those in who asked: no token (401), or not yet allowed (403).",
        "accept the licence on the model's page, then set HF_TOKEN to a token of that account; a "
        "container gets it with -e HF_TOKEN",
        unless=r"repository not found|repositorynotfound",
    ),
    Signature(
        Cause.HUB_OFFLINE,
        (
            r"outgoing traffic has been disabled",
            r"offline mode is enabled",
            r"offlinemodeisenabled",
            r"(?:hf_hub|transformers)_offline ?= ?1 (?:is set )?(?:and|but)… "
            r"(?:not|isn.t|missing|absent)",
        ),
        "Downloads are switched off, and the model is not in the cache.",
        "unset HF_HUB_OFFLINE and TRANSFORMERS_OFFLINE, or download the model into the cache first",
    ),
    Signature(
        Cause.HUB_UNREACHABLE,
        (
            r"(?:certificate_verify_failed|self-?signed certificate)[^\n]{0,300}" + _HUB,
            _HUB + r"[^\n]{0,400}(?:certificate_verify_failed|self-?signed certificate)",
        ),
        "The Hub answers through a proxy whose certificate is not trusted here.",
        "export REQUESTS_CA_BUNDLE=/etc/ssl/certs/ca-certificates.crt SSL_CERT_FILE=$"
        "REQUESTS_CA_BUNDLE, a file that holds your company's certificate; or download the model "
        "elsewhere and serve its folder",
    ),
    Signature(
        Cause.HUB_UNREACHABLE,
        (
            r"couldn.t connect to .{0,3}https?://" + _HUB,
            r"(?:max retries exceeded|httpsconnectionpool|name ?resolution ?error|"
            r"failed to resolve|connecttimeout|readtimeout|connect(?:ion)? ?(?:error|timed out|"
            r"timeout|reset|refused)|"
            r"network is unreachable|sslerror|ssl: |proxyerror|could not resolve host)"
            r"[^\n]{0,300}\n?[^\n]{0,200}" + _HUB,
            _HUB + r"[^\n]{0,300}(?:max retries exceeded|failed to resolve|timed out|unreachable|"
            r"name resolution|could not resolve|connection (?:refused|reset|error|aborted)|"
            r"sslerror)",
            r"cannot find the requested files in the local cache",
            r"error happened while trying to locate the files? on the hub",
            r"cannot find an appropriate (?:cached )?snapshot folder… check your internet",
            r"does not seem to be served by a hugging face hub endpoint",
            r"(?:429 client|50\d server) error…" + _HUB,
            r"check your (?:internet )?connection…" + _HUB,
        ),
        "The Hub could not be reached.",
        "check network, DNS and HTTPS_PROXY; or download the model elsewhere and serve its folder",
    ),
    Signature(
        Cause.HUB_OFFLINE,
        (r"localentrynotfounderror",),
        "The model is not in the cache, and it was not downloaded.",
        "download it first, or unset HF_HUB_OFFLINE",
        tier=Tier.GENERAL,
    ),
)
