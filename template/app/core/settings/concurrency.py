"""Settings of the pools for computations and for libraries that block."""

from pydantic import Field
from pydantic_settings import BaseSettings


class ConcurrencySettings(BaseSettings):
    cpu_processes: int = Field(
        0,
        ge=0,
        le=1024,
        description="Processes for computations of one worker; 0 derives them from the cores and "
        "the memory.",
    )
    cpu_backlog: int = Field(
        16, ge=0, description="Calls that may wait for such a process; more are refused with 503."
    )
    blocking_threads: int = Field(
        16, ge=1, le=1024, description="Threads of one worker for libraries that block."
    )
    blocking_backlog: int = Field(
        64, ge=0, description="Calls that may wait for such a thread; more are refused with 503."
    )
