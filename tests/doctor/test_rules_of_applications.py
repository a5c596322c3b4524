"""What the doctor finds in FastAPI applications, without calling them: each rule where it must speak, and where it must be silent."""

from __future__ import annotations

import fastapi
import pytest
from doubles.patient import diagnose

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
    "late commit": "@app.get('/x')\nasync def held(session: AsyncSession = Depends(get_session)):\n"
    "    async def rows():\n        await session.commit()\n        yield b''\n    return StreamingResponse(rows())",
}
FREE = {
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
    found = diagnose(f"{name}:app", offline=True).PG020
    line = next(number for number, one in enumerate(text.splitlines(), 1) if one.startswith(("@app", "@router")))
    assert found.where == f"{name}.py:{line}"
    assert "/x (held) answers with " in found.evidence
    assert 'scope="function"' in found.fix


@pytest.mark.parametrize("route", FREE.values(), ids=FREE)
def test_innocent_routes(module, route):
    """PG020 is silent where nothing is streamed, nothing is held, or it is given back before."""
    assert "PG020" not in diagnose(f"{module(APP + route)}:app", offline=True).codes


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
