"""Connections whose task has finished, or that nobody has any more."""

from __future__ import annotations

import asyncio

from scenarios.stage import LEAKED, LONG, ONE, ORPHANED, leak
from sqlalchemy.ext.asyncio import AsyncSession


@leak(ORPHANED)
async def owner_has_finished(stage):
    async def job():
        stage.kept = AsyncSession(stage.db)
        await stage.kept.execute(ONE)  # HERE

    await asyncio.create_task(job())
    await asyncio.sleep(LONG)
    await stage.kept.close()


@leak(ORPHANED)
async def connection_kept_in_a_list(stage):
    kept = []

    async def job():
        kept.append(await stage.db.connect())  # HERE

    task = asyncio.create_task(job())
    await task
    await asyncio.sleep(LONG)
    await kept.pop().close()


@leak(LEAKED)
async def garbage(stage):
    async def job():
        session = AsyncSession(stage.db)
        await session.execute(ONE)  # HERE

    await asyncio.create_task(job())
