"""What a vLLM server says of itself in `/metrics`, made into figures that people read.

A `Sample` is one reading: gauges, and counters since the server's start. `Metrics` are what
happened between two samples, added up from each series by itself: of several engines behind one
server, any may come, go or begin anew. What a server does not tell (each version has other names)
stays unknown.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from prometheus_client.parser import text_string_to_metric_families

from gearshift.errors import EngineError

Rows = dict[str, list[tuple[Mapping[str, str], float]]]
"""Labels and values by the names of their samples."""
Series = frozenset[tuple[str, str]]
"""The labels of one counter or histogram: its engine among them."""

# The newest name first; vLLM has renamed these.
_RUNNING = ("vllm:num_requests_running",)
_WAITING = ("vllm:num_requests_waiting",)
_SWAPPED = ("vllm:num_requests_swapped",)  # V0: put back, with their cache in the machine's memory
_KV_CACHE = ("vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc")
_PREFIX_QUERIES = ("vllm:prefix_cache_queries", "vllm:gpu_prefix_cache_queries")
_PREFIX_HITS = ("vllm:prefix_cache_hits", "vllm:gpu_prefix_cache_hits")
_PREFIX_HIT_RATE = ("vllm:gpu_prefix_cache_hit_rate",)  # V0; -1 where there is no such cache
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
    total: float = 0.0  # NaN where it is not told

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

    def __add__(self, other: Histogram) -> Histogram:
        """The observations of both."""
        bounds = {**self.buckets, **other.buckets}
        counts = {b: self.buckets.get(b, 0.0) + other.buckets.get(b, 0.0) for b in bounds}
        return Histogram(counts, self.total + other.total)

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
        return self.total / self.count if self.count and math.isfinite(self.total) else None


@dataclass(frozen=True)
class Sample:
    """One reading of `/metrics`.

    Attributes:
        at: When, on the monotonic clock in seconds.
        started: When the server's process began, seconds since the epoch.
        running, waiting: Requests now; those that were swapped out wait.
        kv_cache_usage: 0 to 1; of the fullest engine, where there are several.
        kv_cache_tokens: What the KV cache holds when it is full.
        prefix_cache_hit_rate: Of the last requests, where the server tells only that.
        counters: Totals since the server's start, of each series.
        ttft, itl: Times to the first token and between tokens, seconds, of each series.
    """

    at: float
    started: float | None = None
    running: int | None = None
    waiting: int | None = None
    kv_cache_usage: float | None = None
    kv_cache_tokens: int | None = None
    prefix_cache_hit_rate: float | None = None
    counters: Mapping[str, Mapping[Series, float]] = field(default_factory=dict)
    ttft: Mapping[Series, Histogram] = field(default_factory=dict)
    itl: Mapping[Series, Histogram] = field(default_factory=dict)

    def follows(self, earlier: Sample) -> bool:
        """Whether no process of the server began anew since then."""
        return self.started == earlier.started and all(
            self.counters.get(name, {}).get(series, value) >= value
            for name, rows in earlier.counters.items()
            for series, value in rows.items()
        )

    def silent_since(self, earlier: Sample) -> bool:
        """Whether there was work at both times, and not a token was counted in between.

        A prompt's tokens are counted when its answer begins. Who does not count is not silent.
        """
        tokens = ("prompt_tokens", "generation_tokens")
        return all(
            name in self.counters and self.counters[name] == earlier.counters.get(name)
            for name in tokens
        ) and all((sample.running or 0) + (sample.waiting or 0) for sample in (self, earlier))


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
        finished: Requests that ended well: neither given up by their client nor failed.
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
    """Reads the text of `/metrics`; values that are no number are left out.

    Raises:
        EngineError: it is none, or not that of vLLM (kind `metrics`).
    """
    rows: Rows = {}
    try:
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                values = rows.setdefault(sample.name, [])
                if math.isfinite(sample.value):
                    values.append((sample.labels, sample.value))
        if any(name.startswith("vllm:") for name in rows):
            return _sample(rows, at)
    except (ValueError, KeyError, IndexError):
        pass  # it is no such text
    raise EngineError("metrics", "its /metrics are not those of vLLM", "check the server's address")


def _sample(rows: Rows, at: float) -> Sample:
    totals = {name: _series(rows, names) for name, names in _COUNTERS.items()}
    hit_rates = [rate for rate in _values(rows, _PREFIX_HIT_RATE) if rate >= 0]
    return Sample(
        at=at,
        started=max(_values(rows, ("process_start_time_seconds",)), default=None),
        running=_whole(_values(rows, _RUNNING)),
        waiting=_whole(_values(rows, _WAITING) + _values(rows, _SWAPPED)),
        kv_cache_usage=max(_values(rows, _KV_CACHE), default=None),
        kv_cache_tokens=_kv_cache_tokens(rows),
        prefix_cache_hit_rate=min(hit_rates, default=None),
        counters={name: found for name, found in totals.items() if found},
        ttft=_histograms(rows, _TTFT),
        itl=_histograms(rows, _ITL),
    )


def between(earlier: Sample, later: Sample) -> Metrics:
    """What happened from one sample to the next; a restart in between is taken into account."""
    seconds = later.at - earlier.at
    if not later.follows(earlier):
        earlier = Sample(earlier.at)  # it began anew, from zero
    grown = {
        name: sum(n - earlier.counters.get(name, {}).get(series, 0.0) for series, n in rows.items())
        for name, rows in later.counters.items()
    }

    def rate(name: str) -> float | None:
        return grown[name] / seconds if name in grown and seconds > 0 else None

    hits, queries = grown.get("prefix_hits"), grown.get("prefix_queries")
    counted = hits / queries if queries and hits is not None else None
    return Metrics(
        seconds=seconds,
        running=later.running,
        waiting=later.waiting,
        kv_cache_usage=later.kv_cache_usage,
        kv_cache_tokens=later.kv_cache_tokens,
        prefix_cache_hit_rate=later.prefix_cache_hit_rate if counted is None else counted,
        prompt_tokens_per_s=rate("prompt_tokens"),
        generation_tokens_per_s=rate("generation_tokens"),
        preemptions=_count(grown.get("preemptions")),
        finished=_count(grown.get("finished")),
        ttft_s=_percentiles(earlier.ttft, later.ttft),
        itl_s=_percentiles(earlier.itl, later.itl),
        queue_time_s=grown.get("queue_time"),
        prefill_time_s=grown.get("prefill_time"),
        decode_time_s=grown.get("decode_time"),
    )


def _percentiles(
    earlier: Mapping[Series, Histogram], later: Mapping[Series, Histogram]
) -> Percentiles:
    """Of what all series observed in between, together."""
    nothing = Histogram()
    grown = [found.since(earlier.get(series, nothing)) for series, found in later.items()]
    whole = sum(grown, nothing)
    p50, p95, p99 = (whole.percentile(share) for share in (0.5, 0.95, 0.99))
    return Percentiles(p50, p95, p99, whole.mean)


def _rows(rows: Rows, names: Iterable[str]) -> list[tuple[Mapping[str, str], float]]:
    """Of the first of the names that there is."""
    found = (rows[whole] for name in names for whole in (name, f"{name}_total") if whole in rows)
    return next(found, [])


def _values(rows: Rows, names: Iterable[str]) -> list[float]:
    """One value for each engine and label."""
    return [value for _, value in _rows(rows, names)]


def _series(rows: Rows, names: Iterable[str]) -> dict[Series, float]:
    return {
        frozenset(labels.items()): value
        for labels, value in _rows(rows, names)
        if labels.get("finished_reason") not in _ENDED_BADLY
    }


_ENDED_BADLY = ("abort", "error")


def _whole(values: list[float]) -> int | None:
    return _count(sum(values)) if values else None


def _count(value: float | None) -> int | None:
    return None if value is None else round(value)


def _histograms(rows: Rows, names: Iterable[str]) -> dict[Series, Histogram]:
    """One for each engine and label."""
    name = next((name for name in names if f"{name}_bucket" in rows), None)
    if name is None:
        return {}
    buckets: dict[Series, dict[float, float]] = {}
    for labels, value in rows[f"{name}_bucket"]:
        series = frozenset((key, text) for key, text in labels.items() if key != "le")
        buckets.setdefault(series, {})[float(labels["le"])] = value
    totals = _series(rows, (f"{name}_sum",))
    return {
        series: Histogram(found, totals.get(series, math.nan)) for series, found in buckets.items()
    }


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
