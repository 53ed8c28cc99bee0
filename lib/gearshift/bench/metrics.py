"""What a load measured: raw stamps of each request, and the figures derived from them.

TTFT, ITL, TPOT, E2EL and goodput are those of `vllm bench serve` (vllm/benchmarks/serve.py, 0.32),
with two differences, which make them the server's own on servers of every kind. A message that only
announces the role, or only the end, is no token: from vLLM such messages come within a millisecond
of a token and would add one interval of nearly 0 to each request's ITL, other servers send the role
before they have computed anything. And a request begins when its bytes leave, not when it waits for
its turn in the client. Goodput knows goals of ITL, too. All times are in seconds.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from gearshift.engine.metrics import Percentiles
from gearshift.errors import GearshiftError

METRICS = ("ttft", "tpot", "itl", "e2el")
_ENOUGH = 6  # values whose median the bootstrap brackets with 95 %
_STUDENT = {3: 4.303, 4: 3.182, 5: 2.776}  # 97.5 % quantile of Student's t, by number of values


@dataclass(slots=True)
class Request:
    """One request as it went: stamps of `time.monotonic()`, taken where bytes arrive.

    Attributes:
        prompt: The index of its prompt.
        due: When an open loop had planned it.
        started: When its bytes went to the socket; the connection had been made just before.
        pieces: One stamp for each message with a token in it, or with several.
        ended: When the server said why the answer ends.
        input_tokens, output_tokens: As the server counted them.
        error, reason: The kind of failure, and in words; an answer that was cut off is one.
        lingered: The server left the connection open after the end, and its end was waited for.
    """

    prompt: int
    due: float | None = None
    started: float | None = None
    pieces: list[float] = field(default_factory=list)
    ended: float | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    error: str | None = None
    reason: str = ""
    lingered: bool = False

    @property
    def completed(self) -> bool:
        return self.error is None and self.ended is not None

    @property
    def tokens(self) -> int:
        """Output tokens: the server's count, else one for each message."""
        return self.output_tokens or len(self.pieces)

    @property
    def ttft_s(self) -> float:
        """Time to first token: from sending to the first message with a token."""
        assert self.started is not None
        return self.pieces[0] - self.started

    @property
    def itl_s(self) -> list[float]:
        """Inter-token latencies: between successive messages with tokens."""
        return [later - sooner for sooner, later in zip(self.pieces, self.pieces[1:], strict=False)]

    @property
    def e2el_s(self) -> float:
        """End-to-end latency: from sending to the message that ends the answer."""
        assert self.ended is not None
        assert self.started is not None
        return self.ended - self.started

    @property
    def tpot_s(self) -> float | None:
        """Time per output token after the first: (E2EL - TTFT) / (tokens - 1); `None` for one."""
        return (self.e2el_s - self.ttft_s) / (self.tokens - 1) if self.tokens > 1 else None


@dataclass(slots=True)
class Client:
    """What one process of the load generator used.

    Attributes:
        cpu_s: Processor time from the first request to the last answer.
        late_s: How late it woke up from a sleep, looked at twenty times a second.
    """

    cpu_s: float
    late_s: list[float] = field(default_factory=list)


@dataclass
class Run:
    """The requests of one load, and what sent them.

    Attributes:
        users: People at once; `None` for an open loop without a limit.
        began, ended: From the first request to the last answer.
        unfinished: Requests on their way when it was cancelled; they count nowhere else.
    """

    users: int | None
    requests: list[Request]
    began: float
    ended: float
    clients: list[Client]
    unfinished: int = 0
    cancelled: bool = False

    @property
    def completed(self) -> list[Request]:
        return [request for request in self.requests if request.completed]

    @property
    def failed(self) -> int:
        """Errors, timeouts, answers that broke off."""
        return len(self.requests) - len(self.completed)

    @property
    def failures(self) -> list[tuple[str, int, str]]:
        """Kind, how often, and the words of the first one; the most frequent kind first."""
        failed = [request for request in self.requests if not request.completed]
        counts = Counter(request.error or "unknown" for request in failed)
        words = {request.error or "unknown": request.reason for request in reversed(failed)}
        return [(kind, count, words[kind]) for kind, count in counts.most_common()]

    @property
    def duration_s(self) -> float:
        return self.ended - self.began

    def values(self, metric: str) -> list[float]:
        """All values of `ttft`, `tpot`, `itl` or `e2el`, of completed requests alone."""
        if metric == "itl":
            return [gap for request in self.completed for gap in request.itl_s]
        found = [getattr(request, f"{metric}_s") for request in self.completed]
        return [value for value in found if value is not None]

    def percentiles(self, metric: str) -> Percentiles:
        return percentiles(self.values(metric))

    @property
    def output_tokens(self) -> int:
        return sum(request.tokens for request in self.completed)

    @property
    def output_tokens_per_s(self) -> float | None:
        """Output tokens of completed requests over the whole duration."""
        return self.output_tokens / self.duration_s if self.duration_s > 0 else None

    @property
    def requests_per_s(self) -> float | None:
        return len(self.completed) / self.duration_s if self.duration_s > 0 else None

    @property
    def counted_by(self) -> str | None:
        """Who counted output tokens: `usage` (the server), `messages` (we), `both`."""
        ways = {bool(request.output_tokens) for request in self.completed}
        if len(ways) == 2:
            return "both"
        return None if not ways else "usage" if ways.pop() else "messages"

    @property
    def input_tokens_mean(self) -> float | None:
        counts = [r.input_tokens for r in self.completed if r.input_tokens is not None]
        return float(np.mean(counts)) if counts else None

    @property
    def concurrency_mean(self) -> float | None:
        """Completed requests that were under way at once, on average over the whole duration."""
        if self.duration_s <= 0:
            return None
        return sum(request.e2el_s for request in self.completed) / self.duration_s

    @property
    def client_cpu_percent(self) -> float:
        """Of one core, all processes of the load generator together."""
        if self.duration_s <= 0:
            return 0.0
        return 100 * sum(client.cpu_s for client in self.clients) / self.duration_s

    def goodput(self, goals: Sequence[Goal]) -> float | None:
        """Completed requests per second that meet every goal (`Goal.met_by`)."""
        if not goals or self.duration_s <= 0:
            return None
        good = sum(all(goal.met_by(request) for goal in goals) for request in self.completed)
        return good / self.duration_s


def percentiles(values: Sequence[float]) -> Percentiles:
    """p50, p95, p99 by linear interpolation, as numpy's, and the mean; `None` without values."""
    if not values:
        return Percentiles(None, None, None, None)
    p50, p95, p99 = np.percentile(values, (50, 95, 99))
    return Percentiles(float(p50), float(p95), float(p99), float(np.mean(values)))


@dataclass(frozen=True, slots=True)
class Goal:
    """One condition of a service-level objective: a metric below a limit in seconds.

    `percentile` (of all requests of a run) is what `met` looks at; 95 where none was named.
    """

    metric: str
    limit_s: float
    percentile: float = 95

    def met_by(self, request: Request) -> bool:
        """Whether one request meets it: with this percentile of its own ITL; its TPOT and ITL are 0
        if it has a single token."""
        if self.metric == "itl":
            gaps = request.itl_s
            return not gaps or float(np.percentile(gaps, self.percentile)) <= self.limit_s
        value: float | None = getattr(request, f"{self.metric}_s")
        return (value or 0.0) <= self.limit_s

    def met(self, run: Run) -> bool:
        """Whether a run meets it: no request failed, and the percentile is below the limit."""
        values = run.values(self.metric)
        if run.failed or not values:
            return False
        return float(np.percentile(values, self.percentile)) <= self.limit_s

    def __str__(self) -> str:
        return f"p{self.percentile:g} {self.metric} < {self.limit_s:g}"


_GOAL = re.compile(
    r"(?:p(?P<percentile>\d+(?:\.\d+)?)\s*)?(?P<metric>ttft|tpot|itl|e2el)(?:_s)?\s*(?:<=?|≤)\s*"
    r"(?P<limit>(?:\d+(?:\.\d*)?|\.\d+)(?:e[+-]?\d+)?)\s*(?P<unit>ms|s)?",
    re.IGNORECASE,
)


def parse_goals(text: str) -> tuple[Goal, ...]:
    """The goals in `p95 ttft < 1, tpot < 50 ms`; without a unit, seconds.

    Raises:
        GearshiftError: it cannot be read.
    """
    goals = []
    for part in re.split(r",|\band\b", text):
        found = _GOAL.fullmatch(part.strip())
        if (
            found is None
            or not 0 < float(found["percentile"] or 95) <= 100
            or float(found["limit"]) == 0
        ):
            raise GearshiftError(
                f"the goal {part.strip()!r} cannot be read",
                hint='write it like "p95 ttft < 1, tpot < 0.05" (seconds; ttft, tpot, itl, e2el)',
            )
        limit = float(found["limit"]) / (1000 if (found["unit"] or "").lower() == "ms" else 1)
        goals.append(Goal(found["metric"].lower(), limit, float(found["percentile"] or 95)))
    return tuple(dict.fromkeys(goals))


def confidence_interval(
    values: Iterable[float], seed: int = 0, draws: int = 10_000
) -> tuple[float, float] | None:
    """At 95 %: of the median over repetitions, by bootstrap; `None` for fewer than three of them.

    Of six to ten values that covers the true one 90 to 96 times in a hundred, and more would be
    claimed than is known of fewer: of three to five it is Student's t interval about their mean, of
    their logarithms where all are positive, as times and rates are.
    """
    known = np.array([value for value in values if math.isfinite(value)])
    if len(known) < 3:
        return None
    if len(known) < _ENOUGH:
        positive = bool((known > 0).all())
        scaled = np.log(known) if positive else known
        half = _STUDENT[len(known)] * float(np.std(scaled, ddof=1)) / math.sqrt(len(known))
        edges = float(np.mean(scaled)) - half, float(np.mean(scaled)) + half
        if positive:
            return math.exp(edges[0]), math.exp(edges[1])
        return (max(0.0, edges[0]) if (known >= 0).all() else edges[0]), edges[1]
    chosen = np.random.default_rng(seed).choice(known, (draws, len(known)))
    low, high = np.percentile(np.median(chosen, axis=1), (2.5, 97.5))
    return float(low), float(high)
