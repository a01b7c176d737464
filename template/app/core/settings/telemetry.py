"""Settings of the log and of the measurement of requests."""

from typing import Literal

from pydantic import Field
from pydantic_settings import BaseSettings

LogLevel = Literal["DEBUG", "INFO", "WARNING", "ERROR"]
LogFormat = Literal["json", "text"]


class TelemetrySettings(BaseSettings):
    log_level: LogLevel = Field("INFO", description="Least severe level that is logged.")
    log_format: LogFormat = Field(
        "json",
        description="Form of the log: `json`, an object for each line, or `text` for people.",
    )
    slow_request_ms: int = Field(
        1000,
        ge=0,
        description="A request whose response starts later than this is logged; 0 logs none.",
    )
    blocked_loop_ms: int = Field(
        0,
        ge=0,
        le=10_000,
        description="A call that holds the event loop for longer is logged; 0 logs none.",
    )
    access_log_sample: float = Field(
        0,
        ge=0,
        le=1,
        description="Share of the requests that are logged, chosen by their id, "
        "which is the client's own if it sends one.",
    )
    server_timing: bool = Field(
        False, description="Whether responses have `Server-Timing` and `X-Process-Time`."
    )
