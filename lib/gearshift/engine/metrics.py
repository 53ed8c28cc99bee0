"""What a vLLM server says of itself in `/metrics`, made into figures that people read.

A `Sample` is one reading: gauges, and counters since the server's start. `Metrics` are what
happened between two samples. What a server does not tell (each version has other names) stays
unknown.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from prometheus_client.parser import text_string_to_metric_families

from gearshift.errors import EngineError

Rows = dict[str, list[tuple[Mapping[str, str], float]]]
"""Labels and values by the names of their samples."""

# The newest name first; vLLM has renamed these.
_RUNNING = ("vllm:num_requests_running",)
_WAITING = ("vllm:num_requests_waiting",)
_KV_CACHE = ("vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc")
_PREFIX_QUERIES = ("vllm:prefix_cache_queries", "vllm:gpu_prefix_cache_queries")
_PREFIX_HITS = ("vllm:prefix_cache_hits", "vllm:gpu_prefix_cache_hits")
_PROMPT_TOKENS = ("vllm:prompt_tokens",)
_GENERATION_TOKENS = ("vllm:generation_tokens",)
_PREEMPTIONS = ("vllm:num_preemptions",)
_FINISHED = ("vllm:request_success",)
_TTFT = ("vllm:time_to_first_token_seconds",)
_ITL = ("vllm:inter_token_latency_seconds", "vllm:time_per_output_token_seconds")
_QUEUE_TIME = ("vllm:request_queue_time_seconds_sum",)
_PREFILL_TIME = ("vllm:request_prefill_time_seconds_sum",)
_DECODE_TIME = ("vllm:request_decode_time_seconds_sum",)

_COUNTERS = {
    "prompt_tokens": _PROMPT_TOKENS,
    "generation_tokens": _GENERATION_TOKENS,
    "prefix_queries": _PREFIX_QUERIES,
    "prefix_hits": _PREFIX_HITS,
    "preemptions": _PREEMPTIONS,
    "finished": _FINISHED,
    "queue_time": _QUEUE_TIME,
    "prefill_time": _PREFILL_TIME,
    "decode_time": _DECODE_TIME,
}


@dataclass(frozen=True)
class Histogram:
    """How many observations were at most each bound; the last bound is infinite."""

    buckets: Mapping[float, float] = field(default_factory=dict)
    total: float = 0.0

    @property
    def count(self) -> float:
        """All observations."""
        return self.buckets.get(math.inf, 0.0)

    def since(self, earlier: Histogram) -> Histogram:
        """The observations that came after `earlier`; all of them if the server began anew."""
        if earlier.count > self.count or earlier.buckets.keys() != self.buckets.keys():
            return self
        counts = {bound: n - earlier.buckets[bound] for bound, n in self.buckets.items()}
        return Histogram(counts, self.total - earlier.total)

    def percentile(self, share: float) -> float | None:
        """A value below which `share` (0 to 1) of the observations lie, `None` without any.

        Within a bucket they are taken as evenly spread, as Prometheus' `histogram_quantile` does;
        above the last finite bound nothing but that bound is known.
        """
        wanted, below, before = share * self.count, 0.0, 0.0
        if not self.count:
            return None
        for bound, count in sorted(self.buckets.items()):
            if count >= wanted and count > before:
                if math.isinf(bound):
                    return below
                return below + (bound - below) * (wanted - before) / (count - before)
            below, before = bound, count
        return None

    @property
    def mean(self) -> float | None:
        """The mean of the observations, `None` without any."""
        return self.total / self.count if self.count else None


@dataclass(frozen=True)
class Sample:
    """One reading of `/metrics`.

    Attributes:
        at: When, on the monotonic clock in seconds.
        started: When the server's process began, seconds since the epoch.
        running, waiting: Requests now.
        kv_cache_usage: 0 to 1; of the fullest engine, where there are several.
        kv_cache_tokens: What the KV cache holds when it is full.
        counters: Totals since the server's start.
        ttft, itl: Times to the first token and between tokens, seconds.
    """

    at: float
    started: float | None = None
    running: int | None = None
    waiting: int | None = None
    kv_cache_usage: float | None = None
    kv_cache_tokens: int | None = None
    counters: Mapping[str, float] = field(default_factory=dict)
    ttft: Histogram = field(default_factory=Histogram)
    itl: Histogram = field(default_factory=Histogram)


@dataclass(frozen=True)
class Percentiles:
    """Of one time, in seconds; the fields are called as a benchmark's."""

    p50: float | None
    p95: float | None
    p99: float | None
    mean: float | None


@dataclass(frozen=True)
class Metrics:
    """What a server did between two samples, and how it is at the second.

    Attributes:
        seconds: Between the samples.
        prefix_cache_hit_rate: Prompt tokens that the cache had, of all that came, 0 to 1.
        preemptions: Requests that were put back because the KV cache was full.
        finished: Requests that ended well.
        queue_time_s, prefill_time_s, decode_time_s: What they spent waiting for a turn, reading
            the prompt and writing the answer, all together.
    """

    seconds: float
    running: int | None
    waiting: int | None
    kv_cache_usage: float | None
    kv_cache_tokens: int | None
    prefix_cache_hit_rate: float | None
    prompt_tokens_per_s: float | None
    generation_tokens_per_s: float | None
    preemptions: int | None
    finished: int | None
    ttft_s: Percentiles
    itl_s: Percentiles
    queue_time_s: float | None = None
    prefill_time_s: float | None = None
    decode_time_s: float | None = None


def read_sample(text: str, at: float) -> Sample:
    """Reads the text of `/metrics`.

    Raises:
        EngineError: it is none, or not that of vLLM (kind `metrics`).
    """
    rows: Rows = {}
    try:
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                rows.setdefault(sample.name, []).append((sample.labels, sample.value))
        if any(name.startswith("vllm:") for name in rows):
            return _sample(rows, at)
    except (ValueError, KeyError, IndexError):
        pass  # it is no such text
    raise EngineError("metrics", "its /metrics are not those of vLLM", "check the server's address")


def _sample(rows: Rows, at: float) -> Sample:
    totals = {name: _values(rows, names) for name, names in _COUNTERS.items()}
    return Sample(
        at=at,
        started=max(_values(rows, ("process_start_time_seconds",)), default=None),
        running=_whole(_values(rows, _RUNNING)),
        waiting=_whole(_values(rows, _WAITING)),
        kv_cache_usage=max(_values(rows, _KV_CACHE), default=None),
        kv_cache_tokens=_kv_cache_tokens(rows),
        counters={name: sum(values) for name, values in totals.items() if values},
        ttft=_histogram(rows, _TTFT),
        itl=_histogram(rows, _ITL),
    )


def between(earlier: Sample, later: Sample) -> Metrics:
    """What happened from one sample to the next; a restart in between is taken into account."""
    seconds = later.at - earlier.at
    if earlier.started != later.started or any(
        later.counters.get(name, 0.0) < value for name, value in earlier.counters.items()
    ):
        earlier = Sample(earlier.at)  # it began anew, from zero
    grown = {name: n - earlier.counters.get(name, 0.0) for name, n in later.counters.items()}

    def rate(name: str) -> float | None:
        return grown[name] / seconds if name in grown and seconds > 0 else None

    hits, queries = grown.get("prefix_hits"), grown.get("prefix_queries")
    return Metrics(
        seconds=seconds,
        running=later.running,
        waiting=later.waiting,
        kv_cache_usage=later.kv_cache_usage,
        kv_cache_tokens=later.kv_cache_tokens,
        prefix_cache_hit_rate=hits / queries if queries and hits is not None else None,
        prompt_tokens_per_s=rate("prompt_tokens"),
        generation_tokens_per_s=rate("generation_tokens"),
        preemptions=_count(grown.get("preemptions")),
        finished=_count(grown.get("finished")),
        ttft_s=_percentiles(later.ttft.since(earlier.ttft)),
        itl_s=_percentiles(later.itl.since(earlier.itl)),
        queue_time_s=grown.get("queue_time"),
        prefill_time_s=grown.get("prefill_time"),
        decode_time_s=grown.get("decode_time"),
    )


def _percentiles(histogram: Histogram) -> Percentiles:
    p50, p95, p99 = (histogram.percentile(share) for share in (0.5, 0.95, 0.99))
    return Percentiles(p50, p95, p99, histogram.mean)


def _values(rows: Rows, names: Iterable[str]) -> list[float]:
    """One value for each engine and label, of the first of the names that there is."""
    found = (rows[whole] for name in names for whole in (name, f"{name}_total") if whole in rows)
    return [value for _, value in next(found, [])]


def _whole(values: list[float]) -> int | None:
    return _count(sum(values)) if values else None


def _count(value: float | None) -> int | None:
    return None if value is None or not math.isfinite(value) else round(value)


def _histogram(rows: Rows, names: Iterable[str]) -> Histogram:
    """All engines' observations together."""
    for name in names:
        if f"{name}_bucket" in rows:
            buckets: dict[float, float] = {}
            for labels, value in rows[f"{name}_bucket"]:
                bound = float(labels["le"])
                buckets[bound] = buckets.get(bound, 0.0) + value
            return Histogram(buckets, sum(_values(rows, (f"{name}_sum",))))
    return Histogram()


def _kv_cache_tokens(rows: Rows) -> int | None:
    """From the labels of a gauge that tells the configuration; those of all engines together."""
    found = 0
    for labels, _ in rows.get("vllm:cache_config_info", []):
        whole = labels.get("kv_cache_size_tokens", "")
        blocks = labels.get("num_gpu_blocks", ""), labels.get("block_size", "")
        if whole.isdigit():
            found += int(whole)
        elif all(part.isdigit() for part in blocks):
            found += int(blocks[0]) * int(blocks[1])
    return found or None


def in_words(now: Metrics, max_num_seqs: int | None = None) -> str:
    """What the figures mean, in one line; `now` should span some seconds."""
    if now.running is None or now.waiting is None:
        return "It does not tell how many requests it has."
    usage = now.kv_cache_usage or 0.0
    rate = now.generation_tokens_per_s or 0.0
    stands = rate == 0.0 and not now.prompt_tokens_per_s and now.seconds >= 5
    if now.running and stands:
        return (
            f"{_requests(now.running)} under way and no token came for {now.seconds:.0f} s: it may "
            "hang, look at its log."
        )
    if now.preemptions:
        return (
            f"{_requests(now.preemptions)} put back, because the KV cache is full: allow fewer at "
            "once (--max-num-seqs), shorter ones (--max-model-len), or give it more memory."
        )
    if now.waiting and usage >= _FULL:
        return (
            f"{_requests(now.waiting)} waiting: the KV cache is full ({100 * usage:.0f} %). "
            "Shorter contexts (--max-model-len), an fp8 cache (--kv-cache-dtype) or more memory "
            "help."
        )
    if now.waiting and max_num_seqs and now.running >= max_num_seqs:
        return (
            f"{_requests(now.waiting)} waiting: it takes {max_num_seqs} at once. If memory allows, "
            "raise --max-num-seqs."
        )
    if now.waiting:
        return f"{_requests(now.waiting)} waiting for a turn, {now.running} under way."
    if usage >= _FULL:
        return f"The KV cache is nearly full ({100 * usage:.0f} %): the next requests will wait."
    if now.running:
        return f"{_requests(now.running)} under way at {rate:.0f} tokens a second; nobody waits."
    if rate:
        return f"Requests come and go at {rate:.0f} tokens a second; nobody waits."
    return "Idle: nobody asks."


_FULL = 0.95  # of the KV cache; the last blocks are seldom all taken


def _requests(count: int) -> str:
    return f"{count} request{'' if count == 1 else 's'}"
