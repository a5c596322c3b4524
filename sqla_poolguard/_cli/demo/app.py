"""
The shop: a small FastAPI application such as anybody might have written, with its good routes, a culprit and a leak.

Only `no_connection` knows of sqla_poolguard. The engine comes from outside; with GuardedPool it was made by

    create_async_engine(url, poolclass=GuardedPool)
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import AsyncIterator  # noqa: TC003 - FastAPI reads annotations when the application starts
from typing import Annotated, Any

import httpx  # noqa: TC002 - likewise
from fastapi import APIRouter, Depends, FastAPI, Request  # noqa: TC002 - likewise
from fastapi.responses import JSONResponse
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession  # noqa: TC002 - likewise

from sqla_poolguard import CheckoutError

log = logging.getLogger("shop")
router = APIRouter()

# pg_sleep stands for a query that takes 60 ms. The shop creates nothing in the database.
ORDERS = text("SELECT id, 'paid' AS state FROM generate_series(1, 20) AS id, pg_sleep(0.06)")
AMOUNT = text("SELECT 100 * CAST(:order_id AS integer)")
REVENUE = text("SELECT sum(id) FROM generate_series(1, 5) AS id")


async def open_session(request: Request) -> AsyncIterator[AsyncSession]:
    """Give a route a session, and close it afterwards."""
    async with AsyncSession(request.app.state.engine) as session:
        yield session


Session = Annotated[AsyncSession, Depends(open_session)]


@router.get("/orders")
async def list_orders(session: Session) -> list[dict[str, Any]]:
    """Do it right: one query, and the connection goes back."""
    orders = await session.execute(ORDERS)
    return [dict(order) for order in orders.mappings()]


@router.post("/login")
async def login() -> dict[str, Any]:
    """Hash a password, as hashes should be: slowly. No database, but nothing else runs in the meantime."""
    return {"token": hashlib.pbkdf2_hmac("sha256", b"secret", b"salt", 200_000).hex()}


@router.post("/orders/{order_id}/pay")
async def pay_order(order_id: int, session: Session, request: Request) -> dict[str, Any]:
    """Hold a connection, idle in transaction, for as long as a stranger takes to answer."""
    payments: httpx.AsyncClient = request.app.state.payments
    amount = await session.scalar(AMOUNT, {"order_id": order_id})  # culprit: takes the connection ...
    receipt = await payments.post("/charge", params={"amount": amount})  # ... and keeps it during this call
    return {"order": order_id, "receipt": receipt.json()}


@router.get("/revenue")
async def revenue(request: Request) -> dict[str, Any]:
    """Open a session and forget it."""
    session = AsyncSession(request.app.state.engine)  # no "async with", no close()
    total = await session.scalar(REVENUE)  # leak: the connection taken here never comes back
    return {"revenue": total}


async def no_connection(_request: Request, error: CheckoutError) -> JSONResponse:
    """Tell the log who holds the connections, and the client when to come back."""
    log.error("%s", error)
    problem = error.to_problem()
    headers = {"Retry-After": str(problem.get("retry_after", 1))}
    return JSONResponse(problem, error.status_code, headers, media_type="application/problem+json")


def create_app(engine: AsyncEngine, payments: httpx.AsyncClient) -> FastAPI:
    """Build the shop on an engine and a client of the payment provider."""
    app = FastAPI(title="The shop")
    app.state.engine = engine
    app.state.payments = payments
    app.include_router(router)
    app.add_exception_handler(CheckoutError, no_connection)  # type: ignore[arg-type]
    return app
