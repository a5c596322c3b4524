"""One of several processes of a service: takes the engine as it was printed, and works with it; tells how that went, as JSON."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

from sqlalchemy import text

TASKS, TRANSACTIONS, STATEMENTS = 8, 12, 4


async def work(code: str) -> dict[str, object]:
    """Run many transactions at once, and check what each statement gives: another one's answer is worse than none."""
    made: dict[str, object] = {}
    exec(code, made)
    engine = made["engine"]
    fine, wrong, errors = 0, 0, []

    async def task(number: int) -> None:
        nonlocal fine, wrong
        for turn in range(TRANSACTIONS):
            try:
                async with engine.connect() as connection:
                    for statement in range(STATEMENTS):
                        factor = (number * 3 + turn + statement) % 11
                        query = text(f"SELECT CAST(:x AS int) * {factor} + {factor} AS c{factor}")
                        if (await connection.execute(query, {"x": turn})).scalar() != turn * factor + factor:
                            wrong += 1
                    await connection.commit()
                fine += 1
            except Exception as error:  # noqa: BLE001 - it is told
                errors.append(f"{type(error).__name__}: {error}"[:200])

    await asyncio.gather(*(task(number) for number in range(TASKS)))
    await engine.dispose()
    return {"fine": fine, "wrong": wrong, "errors": errors}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(asyncio.run(work(Path(sys.argv[1]).read_text()))))
