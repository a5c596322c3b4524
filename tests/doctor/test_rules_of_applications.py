"""What the doctor finds in FastAPI applications, without calling them: each rule where it must speak, and where it must be silent."""

from __future__ import annotations

import importlib

import fastapi
import pytest
from doubles.patient import diagnose

from sqla_poolguard._cli.doctor.routes import walk

APP = """
from __future__ import annotations
from collections.abc import AsyncIterator
from typing import Annotated
from fastapi import APIRouter, Depends, FastAPI
from fastapi.responses import FileResponse, StreamingResponse
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine

engine = create_async_engine("postgresql+asyncpg://app@db.invalid/orders", connect_args={"server_settings": {"application_name": "a"}})
Sessions = async_sessionmaker(engine)

async def get_session() -> AsyncIterator[AsyncSession]:
    async with Sessions() as session:
        yield session

async def unannotated():
    async with Sessions() as session:
        yield session

async def current_user(session: Annotated[AsyncSession, Depends(get_session)]):
    return session

async def settings() -> AsyncIterator[dict]:
    yield {}

app = FastAPI()
router = APIRouter()
"""
HELD = {
    "streaming": "@app.get('/x')\nasync def held(session: AsyncSession = Depends(get_session)):\n    return StreamingResponse(iter(()))",
    "file": "@app.get('/x')\nasync def held(session: AsyncSession = Depends(get_session)) -> FileResponse: ...",
    "declared": "@app.get('/x', response_class=StreamingResponse)\nasync def held(session: AsyncSession = Depends(get_session)): ...",
    "annotated": "@app.get('/x')\nasync def held(s: Annotated[AsyncSession, Depends(unannotated)]):\n    return StreamingResponse(iter(()))",
    "nested": "@app.get('/x')\nasync def held(user=Depends(current_user)):\n    return StreamingResponse(iter(()))",
    "of the route": "@app.get('/x', dependencies=[Depends(get_session)])\nasync def held():\n    return StreamingResponse(iter(()))",
    "of a router": "@router.get('/x')\nasync def held():\n    return StreamingResponse(iter(()))\n"
    "app.include_router(router, dependencies=[Depends(get_session)])",
    "plain function": "@app.get('/x')\ndef held(session: AsyncSession = Depends(get_session)):\n    return StreamingResponse(iter(()))",
    "another's release": "import asyncio\nlock = asyncio.Lock()\n@app.get('/x')\nasync def held(session: AsyncSession = Depends(get_session)):\n"
    "    await lock.acquire()\n    lock.release()\n    return StreamingResponse(iter(()))",
    "another's commit": "@app.get('/x')\nasync def held(s: dict = Depends(settings), session: AsyncSession = Depends(get_session)):\n"
    "    await s.commit()\n    return StreamingResponse(iter(()))",
    "helper": "async def csv(rows):\n    return StreamingResponse(rows)\n"
    "@app.get('/x')\nasync def held(session: AsyncSession = Depends(get_session)):\n    answer = await csv(iter(()))\n    return answer",
    "annotated helper": "def csv(rows) -> FileResponse: ...\ndef outer():\n    return csv(())\n"
    "@app.get('/x')\nasync def held(session: AsyncSession = Depends(get_session)):\n    return outer()",
    "own class": "class Csv(StreamingResponse): ...\n"
    "@app.get('/x')\nasync def held(session: AsyncSession = Depends(get_session)):\n    return Csv(iter(()))",
    "another name": "from fastapi.responses import StreamingResponse as Stream\n"
    "@app.get('/x')\nasync def held(session: AsyncSession = Depends(get_session)):\n    return Stream(iter(()))",
    "no annotation": "@app.get('/x')\nasync def held(session=Depends(unannotated)):\n    return StreamingResponse(iter(()))",
    "no annotation, by hand": "async def by_hand():\n    session = Sessions()\n    try:\n        yield session\n    finally:\n"
    "        await session.close()\n@app.get('/x')\nasync def held(session=Depends(by_hand)):\n    return StreamingResponse(iter(()))",
    "no annotation, a manager": "from contextlib import asynccontextmanager\n@asynccontextmanager\nasync def scope():\n"
    "    async with Sessions.begin() as session:\n        yield session\nasync def by_scope():\n    async with scope() as session:\n"
    "        yield session\n@app.get('/x')\nasync def held(session=Depends(by_scope)):\n    return StreamingResponse(iter(()))",
    "no annotation, a method": "class Database:\n    def __init__(self, sessions):\n        self._sessions = sessions\n"
    "    async def session(self):\n        async with self._sessions() as session:\n            yield session\n"
    "database = Database(Sessions)\n"
    "@app.get('/x')\nasync def held(session=Depends(database.session)):\n    return StreamingResponse(iter(()))",
    "no annotation, a closure": "def make(sessions):\n    async def inner():\n        async with sessions() as session:\n"
    "            yield session\n    return inner\n"
    "@app.get('/x')\nasync def held(session=Depends(make(Sessions))):\n    return StreamingResponse(iter(()))",
    "a connection": "async def connection():\n    async with engine.connect() as connection:\n        yield connection\n"
    "@app.get('/x')\nasync def held(connection=Depends(connection)):\n    await connection.commit()\n"
    "    return StreamingResponse(iter(()))",
    "a query after the commit": "@app.get('/x')\nasync def held(session: AsyncSession = Depends(get_session)):\n"
    "    await session.commit()\n    await session.execute('')\n    return StreamingResponse(iter(()))",
    "perhaps a query after the commit": "@app.get('/x')\nasync def held(more: bool, session: AsyncSession = Depends(get_session)):\n"
    "    await session.commit()\n    if more:\n        await session.refresh(more)\n    return StreamingResponse(iter(()))",
    "a stream that asks after the commit": "async def rows(session): yield b''\n"
    "@app.get('/x')\nasync def held(session: AsyncSession = Depends(get_session)):\n"
    "    await session.commit()\n    return StreamingResponse(rows(session))",
    "an inner stream that asks after the commit": "@app.get('/x')\nasync def held(session: AsyncSession = Depends(get_session)):\n"
    "    async def rows():\n        yield await session.scalar('')\n    await session.commit()\n    return StreamingResponse(rows())",
    "a rollback on another way": "@app.get('/x')\nasync def held(bad: bool, session: AsyncSession = Depends(get_session)):\n"
    "    if bad:\n        await session.rollback()\n        raise ValueError\n    return StreamingResponse(iter(()))",
    "one of two streams": "@app.get('/x')\nasync def held(bad: bool, session: AsyncSession = Depends(get_session)):\n"
    "    if bad:\n        return StreamingResponse(iter(()))\n    await session.commit()\n    return StreamingResponse(iter(()))",
    "late commit": "@app.get('/x')\nasync def held(session: AsyncSession = Depends(get_session)):\n"
    "    async def rows():\n        await session.commit()\n        yield b''\n    return StreamingResponse(rows())",
}
FREE = {
    "keyword": "@app.get('/x')\nasync def free(session=Depends(settings)):\n    return StreamingResponse(iter(()))",
    "a query before the commit": "@app.get('/x')\nasync def free(session: AsyncSession = Depends(get_session)):\n"
    "    await session.execute('')\n    await session.commit()\n    session.expunge_all()\n    return StreamingResponse(iter(()))",
    "perhaps a commit": "@app.get('/x')\nasync def free(session: AsyncSession = Depends(get_session)):\n"
    "    if session.in_transaction():\n        await session.commit()\n    return StreamingResponse(iter(()))",
    "a block": "@app.get('/x')\nasync def free(session: AsyncSession = Depends(get_session)):\n"
    "    async with session.begin():\n        await session.execute('')\n    return StreamingResponse(iter(()))",
    "a return out of a block": "@app.get('/x')\nasync def free(session: AsyncSession = Depends(get_session)):\n"
    "    async with session.begin():\n        await session.execute('')\n        return StreamingResponse(iter(()))",
    "finally": "@app.get('/x')\nasync def free(session: AsyncSession = Depends(get_session)):\n    try:\n"
    "        await session.execute('')\n        return StreamingResponse(iter(()))\n    finally:\n        await session.close()",
    "another name": "@app.get('/x')\nasync def free(session: AsyncSession = Depends(get_session)):\n    db = session\n"
    "    await db.commit()\n    return StreamingResponse(iter(()))",
    "a helper that commits": "async def finish(db, *, log): await db.commit()\n"
    "@app.get('/x')\nasync def free(session: AsyncSession = Depends(get_session)):\n"
    "    await finish(session, log=print)\n    return StreamingResponse(iter(()))",
    "a unit of work": "class Unit:\n    def __init__(self, session: AsyncSession = Depends(get_session)):\n        self.session = session\n"
    "@app.get('/x')\nasync def free(unit: Unit = Depends()):\n    await unit.session.commit()\n    return StreamingResponse(iter(()))",
    "only what is no stream holds": "@app.get('/x')\nasync def free(bad: bool, session: AsyncSession = Depends(get_session)):\n"
    "    if bad:\n        return {}\n    await session.commit()\n    return StreamingResponse(iter(()))",
    "a helper that makes no stream": "def page(rows):\n    return {'rows': rows}\n"
    "@app.get('/x')\nasync def free(session: AsyncSession = Depends(get_session)):\n    return page(())",
    "a task for later": "from fastapi import BackgroundTasks\n"
    "@app.get('/x')\nasync def free(tasks: BackgroundTasks, session: AsyncSession = Depends(get_session)):\n"
    "    await session.commit()\n    tasks.add_task(print, session)\n    return StreamingResponse(iter(()))",
    "a connection that is closed": "async def connection():\n    async with engine.connect() as connection:\n        yield connection\n"
    "@app.get('/x')\nasync def free(connection=Depends(connection)):\n    await connection.close()\n"
    "    return StreamingResponse(iter(()))",
    "no source": "import functools\nfree = functools.partial(eval, '1')",
    "of no session": "async def numbers():\n    yield 1\n@app.get('/x')\nasync def free(number=Depends(numbers)):\n"
    "    return StreamingResponse(iter(()))",
    "plain": "@app.get('/x')\nasync def free(session: AsyncSession = Depends(get_session)) -> dict:\n    return {}",
    "no session": "@app.get('/x')\nasync def free(s: dict = Depends(settings)):\n    return StreamingResponse(iter(()))",
    "function scope": "@app.get('/x')\nasync def free(s: AsyncSession = Depends(get_session, scope='function')):\n"
    "    return StreamingResponse(iter(()))",
    "commit": "@app.get('/x')\nasync def free(session: AsyncSession = Depends(get_session)):\n    await session.commit()\n"
    "    return StreamingResponse(iter(()))",
    "release": "from sqla_poolguard import release\n@app.get('/x')\nasync def free(session: AsyncSession = Depends(get_session)):\n"
    "    await release(session)\n    return StreamingResponse(iter(()))",
}


@pytest.mark.parametrize("route", HELD.values(), ids=HELD)
def test_held_streams(module, route):
    """PG020: a session that lasts as long as the stream, with the line of the endpoint."""
    text = APP + route
    name = module(text)
    (found,) = walked(name)
    line = next(number for number, one in enumerate(text.splitlines(), 1) if one.startswith(("@app", "@router")))
    assert (found.path, found.endpoint) == ("GET /x", "held")
    assert (found.file, found.line) == (f"{name}.py", line)


def walked(name):
    """Give the routes at risk of a module's application."""
    return walk(importlib.import_module(name).app, name).at_risk


def test_finding(module):
    """PG020 says which route, where it is, what it sends, what it holds, and what to do."""
    name = module(APP + HELD["own class"])
    found = diagnose(f"{name}:app", offline=True).PG020
    assert found.where == f"{name}.py:29"
    assert found.evidence == "GET /x (held) answers with Csv, and gets its session from get_session"
    assert 'scope="function"' in found.fix


@pytest.mark.parametrize("route", FREE.values(), ids=FREE)
def test_innocent_routes(module, route):
    """PG020 is silent where nothing is streamed, nothing is held, or it is given back before."""
    assert walked(module(APP + route)) == ()


def test_application_of_an_engine(module):
    """An application is found also where only its engine was named, and the engine where only the application was."""
    name = module(APP + HELD["streaming"])
    assert "PG020" in diagnose(f"{name}:engine", offline=True).codes


def test_engine_of_an_application(module):
    """The other way round."""
    found = diagnose(f"{module(APP + HELD['streaming'])}:app", offline=True)
    assert found.evidence.settings[0].address == "db.invalid:5432/orders"


@pytest.mark.parametrize(
    ("version", "ends"),
    [
        ("0.105.0", "ends after the response has been sent, background tasks included"),
        ("0.110.1", "ends before the response is sent (0.106 to 0.117)"),
        ("0.118.0", "ends after the response has been sent, background tasks included"),
        ("0.121.0", 'unless it is declared with scope="function"'),
    ],
)
def test_versions(module, monkeypatch, version, ends):
    """PG021: what each version of FastAPI does; and PG020 says what comes of it."""
    monkeypatch.setattr(fastapi, "__version__", version)
    found = diagnose(f"{module(APP + HELD['streaming'])}:app", offline=True)
    assert f"FastAPI {version}: a dependency with yield (get_session) " in found.PG021.evidence
    assert ends in found.PG021.evidence
    assert ("fails, or opens a connection again" in found.PG020.why) == (version == "0.110.1")
    assert ("From FastAPI 0.121 on" in found.PG020.fix) == (version != "0.121.0")


def test_no_sessions(module):
    """PG021 is silent about an application whose dependencies hold nothing."""
    found = diagnose(f"{module(APP + FREE['no session'])}:app", offline=True)
    assert "PG021" not in found.codes
    assert found.evidence.apps[0].routes >= 1
