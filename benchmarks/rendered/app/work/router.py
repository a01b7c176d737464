"""No routes: the import declares the job for the worker."""

from app.work import jobs as jobs
from fastapi import APIRouter

router = APIRouter()
