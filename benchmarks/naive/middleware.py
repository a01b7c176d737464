"""A header with the time, metrics and request ids, each a BaseHTTPMiddleware."""

import time
import uuid

from prometheus_client import Counter, Histogram
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.requests import Request
from starlette.responses import Response

REQUESTS = Counter("requests_total", "Requests by method, route and status", ["method", "path", "status"])
DURATION = Histogram("request_duration_seconds", "Duration by method and route", ["method", "path"])


# FastAPI docs, Tutorial, "Middleware": X-Process-Time through @app.middleware("http"), which makes one of these.
class TimingMiddleware(BaseHTTPMiddleware):
    async def dispatch(self, request: Request, call_next: RequestResponseEndpoint) -> Response:
        started = time.perf_counter()
        response = await call_next(request)
        response.headers["X-Process-Time"] = str(time.perf_counter() - started)
        return response


# blueswen/fastapi-observability fastapi_app/utils.py, PrometheusMiddleware (which does more for each request).
class MetricsMiddleware(BaseHTTPMiddleware):
    async def dispatch(self, request: Request, call_next: RequestResponseEndpoint) -> Response:
        started = time.perf_counter()
        status = 500
        try:
            response = await call_next(request)
            status = response.status_code
        finally:
            path = getattr(request.scope.get("route"), "path", "unknown")
            REQUESTS.labels(request.method, path, status).inc()
            DURATION.labels(request.method, path).observe(time.perf_counter() - started)
        return response


# sferland75/delilah-agentic api/middleware/request_id.py, line for line what many others have.
class RequestIDMiddleware(BaseHTTPMiddleware):
    async def dispatch(self, request: Request, call_next: RequestResponseEndpoint) -> Response:
        request_id = request.headers.get("X-Request-ID") or str(uuid.uuid4())
        request.state.request_id = request_id
        response = await call_next(request)
        response.headers["X-Request-ID"] = request_id
        return response
