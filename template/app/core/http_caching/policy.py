"""The caching policy of a route: a mark on its function, below the router's decorator."""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from functools import partial
from typing import Any, TypeVar

from app.core.http_caching import tags

# A field name (RFC 9110, section 5.1).
_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
# Requests with these are answered for one user: the values are no variants of a page.
CREDENTIALS = ("authorization", "proxy-authorization", "cookie", "x-api-key")
_ATTRIBUTE = "__cache_policy__"

F = TypeVar("F", bound=Callable[..., Any])


class Audience(Enum):
    """Whose caches may keep the response."""

    EVERYBODY = "public"
    ONE_CLIENT = "private"
    NOBODY = "never"


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """What `public`, `private` and `never_stored` declare; times are in seconds."""

    audience: Audience
    ttl_s: float = 0
    browser_s: int = 0
    cdn_s: int = 0
    stale_s: float = 0
    error_s: float = 0
    missing_s: float = 0
    vary: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    ignore_credentials: bool = False
    immutable: bool = False
    # Values of `Cache-Control`: of a success, and of a 404 or 410.
    cache_control: bytes = field(init=False)
    missing_control: bytes = field(init=False)

    def __post_init__(self) -> None:
        _check(self)
        object.__setattr__(self, "vary", tuple(dict.fromkeys(name.lower() for name in self.vary)))
        object.__setattr__(self, "cache_control", _cache_control(self))
        object.__setattr__(self, "missing_control", _missing_control(self))

    @property
    def conditional(self) -> bool:
        """Whether a client may hold a copy, and ask whether it is still right."""
        return self.audience is not Audience.NOBODY

    @property
    def kept(self) -> bool:
        """Whether the service's own response cache keeps the response."""
        return self.ttl_s > 0

    @property
    def reused(self) -> bool:
        """Whether others may show the response without asking."""
        return bool(self.browser_s or self.cdn_s)


def public(
    ttl_s: float = 0,
    *,
    browser_s: int = 0,
    cdn_s: int = 0,
    stale_s: float = 0,
    error_s: float = 0,
    missing_s: float = 0,
    vary: tuple[str, ...] = (),
    tags: tuple[str, ...] = (),
    ignore_credentials: bool = False,
    immutable: bool = False,
) -> Callable[[F], F]:
    """The response is the same for everybody without credentials.

    Args:
        ttl_s: how long the service's own response cache keeps it; invalidation ends it earlier.
        browser_s: how long a client shows its copy without asking; nothing ends that earlier. Like
            the others it counts from when the response was loaded: of what this service has kept,
            a client gets the rest.
        cdn_s: the same for caches between, which can be told by surrogate key.
        stale_s: how long after that it is shown while it is loaded again.
        error_s: how long after that it is shown when the endpoint answers with a 5xx, such as 503
            while the database is down; an exception that nothing handles is shown as such.
        missing_s: how long a 404 or 410 is kept.
        vary: request headers that shape the response. No other header reaches the endpoint when
            the response is loaded for the response cache.
        tags: names for invalidation, such as `"user:{user_id}"`, with parameters in braces.
        ignore_credentials: whether the response is the same for those with credentials as well.
        immutable: whether the response never changes while it is fresh.

    Raises:
        ValueError: when the arguments contradict each other.
    """
    policy = Policy(
        audience=Audience.EVERYBODY,
        ttl_s=ttl_s,
        browser_s=browser_s,
        cdn_s=cdn_s,
        stale_s=stale_s,
        error_s=error_s,
        missing_s=missing_s,
        vary=vary,
        tags=tags,
        ignore_credentials=ignore_credentials,
        immutable=immutable,
    )
    return lambda function: _mark(function, policy)


def private(browser_s: int = 0) -> Callable[[F], F]:
    """The response is one client's, who may keep it: no shared cache does.

    Raises:
        ValueError: when `browser_s` is negative.
    """
    policy = Policy(audience=Audience.ONE_CLIENT, browser_s=browser_s)
    return lambda function: _mark(function, policy)


def never_stored(function: F) -> F:
    """The response is kept by nobody."""
    return _mark(function, NEVER_STORED)


def policy_of(endpoint: object) -> Policy | None:
    """What is declared for the function of a route."""
    while isinstance(endpoint, partial):
        endpoint = endpoint.func
    policy = getattr(endpoint, _ATTRIBUTE, None)
    return policy if isinstance(policy, Policy) else None


def _mark(function: F, policy: Policy) -> F:
    if policy_of(function) is not None:
        raise ValueError(f"{getattr(function, '__qualname__', function)} has a caching policy")
    setattr(function, _ATTRIBUTE, policy)
    return function


def _check(policy: Policy) -> None:
    if callable(policy.ttl_s) or callable(policy.browser_s):
        raise TypeError("a policy with times needs parentheses: @public(ttl_s=60), @private()")
    for name in ("ttl_s", "browser_s", "cdn_s", "stale_s", "error_s", "missing_s"):
        if not 0 <= getattr(policy, name) < float("inf"):
            raise ValueError(f"{name} is {getattr(policy, name)}; expected zero or more seconds")
    for name in ("browser_s", "cdn_s"):
        if not isinstance(getattr(policy, name), int):
            raise ValueError(f"{name} is {getattr(policy, name)}; HTTP knows whole seconds")
    for name in ("stale_s", "error_s"):
        if getattr(policy, name) and not (policy.ttl_s or policy.browser_s or policy.cdn_s):
            raise ValueError(f"{name} begins when ttl_s, browser_s or cdn_s ends, and none is set")
    if policy.missing_s and not policy.ttl_s:
        raise ValueError("missing_s is for the response cache: it needs ttl_s")
    if policy.immutable and not policy.browser_s:
        raise ValueError("immutable is said to browsers: it needs browser_s")
    if isinstance(policy.vary, str) or isinstance(policy.tags, str):
        raise ValueError("vary and tags are tuples")
    for name in policy.vary:
        if not _HEADER_NAME.fullmatch(name) or name == "*":
            raise ValueError(f"vary: {name!r} is not the name of a header")
        if name.lower() in CREDENTIALS:
            raise ValueError(f"vary: requests with {name} are not answered from a cache")
    for template in policy.tags:
        tags.check(template)


def _cache_control(policy: Policy) -> bytes:
    if policy.audience is Audience.NOBODY:
        return b"private, no-store"
    parts = [policy.audience.value, f"max-age={policy.browser_s}"]
    if policy.cdn_s:
        parts.append(f"s-maxage={policy.cdn_s}")
    if policy.audience is Audience.EVERYBODY and not policy.reused:
        # Whoever may not show it fresh without asking may not show it stale either.
        parts.append("must-revalidate")
    else:
        for name, seconds in (
            ("stale-while-revalidate", policy.stale_s),
            ("stale-if-error", policy.error_s),
        ):
            if int(seconds):
                parts.append(f"{name}={int(seconds)}")
    if policy.immutable:
        parts.append("immutable")
    return ", ".join(parts).encode()


def _missing_control(policy: Policy) -> bytes:
    if not policy.missing_s:
        return b"no-store"
    seconds = int(min(policy.cdn_s, policy.missing_s))
    shared = f"s-maxage={seconds}" if seconds else "must-revalidate"
    return f"public, max-age=0, {shared}".encode()


# Made when all that it needs is there.
NEVER_STORED = Policy(audience=Audience.NOBODY)
