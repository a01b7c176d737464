"""No routes: the import declares the job for the worker."""

from fastapi import APIRouter

from app.work import jobs as jobs

router = APIRouter()
