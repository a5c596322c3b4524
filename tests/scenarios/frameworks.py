"""Connections held in the ways of FastAPI and Starlette."""

from __future__ import annotations

import asyncio

from fastapi import BackgroundTasks, Depends, FastAPI, Request, WebSocket
from fastapi.responses import StreamingResponse
from scenarios.stage import LONG, ONE, SLEEP, innocent, leak
from sqlalchemy.ext.asyncio import AsyncSession
from starlette.middleware.base import BaseHTTPMiddleware

# what the annotations of the applications' functions name is looked up among the globals
Session = AsyncSession


@leak()
async def route(stage):
    app = FastAPI()

    @app.get("/")
    async def answer():
        async with AsyncSession(stage.db) as session:
            await session.execute(ONE)
            return (await stage.http.get("/")).text  # HERE

    await stage.call(app)


@leak()
async def dependency_with_yield(stage):
    app = FastAPI()

    async def session():
        async with AsyncSession(stage.db) as session:
            yield session

    @app.get("/")
    async def answer(session=Depends(session)):
        await session.execute(ONE)
        return (await stage.http.get("/")).text  # HERE

    await stage.call(app)


@leak()
async def dependency_that_authenticates(stage):
    app = FastAPI()

    async def session():
        async with AsyncSession(stage.db) as session:
            yield session

    async def user(session=Depends(session)):
        return (await session.execute(ONE)).scalar()

    @app.get("/")
    async def answer(user=Depends(user)):
        return (await stage.http.get("/")).text  # HERE

    await stage.call(app)


@leak()
async def middleware(stage):
    app = FastAPI()

    class Sessions(BaseHTTPMiddleware):
        async def dispatch(self, request, call_next):
            async with AsyncSession(stage.db) as session:
                request.state.session = session
                await session.execute(ONE)
                return await call_next(request)

    app.add_middleware(Sessions)

    @app.get("/")
    async def answer(request: Request):
        await request.state.session.execute(ONE)
        return (await stage.http.get("/")).text  # HERE

    await stage.call(app)


@leak()
async def middleware_of_plain_asgi(stage):
    app = FastAPI()

    def sessions(inner):
        async def middleware(scope, receive, send):
            async with AsyncSession(stage.db) as session:
                await session.execute(ONE)
                await inner(scope, receive, send)

        return middleware

    @app.get("/")
    async def answer():
        await asyncio.sleep(LONG)  # HERE

    await stage.serve(sessions(app))


@leak()
async def streaming_response(stage):
    app = FastAPI()

    async def body():
        async with AsyncSession(stage.db) as session:
            await session.execute(ONE)
            yield b"a"
            await asyncio.sleep(LONG)  # HERE
            yield b"b"

    @app.get("/")
    async def answer():
        return StreamingResponse(body())

    await stage.serve(app)


@leak()
async def streaming_response_with_the_session_of_a_dependency(stage):
    app = FastAPI()

    async def session():
        async with AsyncSession(stage.db) as session:
            yield session

    async def body():
        yield b"a"
        await asyncio.sleep(LONG)  # HERE
        yield b"b"

    @app.get("/")
    async def answer(session=Depends(session)):
        await session.execute(ONE)
        return StreamingResponse(body())

    await stage.serve(app)


@leak()
async def websocket(stage):
    app = FastAPI()

    @app.websocket("/")
    async def talk(socket: WebSocket):
        await socket.accept()
        async with AsyncSession(stage.db) as session:
            await session.execute(ONE)
            await socket.receive_text()  # HERE
        await socket.close()

    await stage.websocket(app, "/", LONG)


@leak()
async def background_task(stage):
    app = FastAPI()

    async def later():
        async with AsyncSession(stage.db) as session:
            await session.execute(ONE)
            await stage.http.get("/")  # HERE

    @app.get("/")
    async def answer(tasks: BackgroundTasks):
        tasks.add_task(later)

    await stage.call(app)


@leak()
async def background_task_with_the_session_of_a_dependency(stage):
    app = FastAPI()

    async def session():
        async with AsyncSession(stage.db) as session:
            yield session

    async def later():
        await stage.http.get("/")  # HERE

    @app.get("/")
    async def answer(tasks: BackgroundTasks, session=Depends(session)):
        await session.execute(ONE)
        tasks.add_task(later)

    await stage.call(app)


@innocent()
async def commit_before_a_streaming_response(stage):
    app = FastAPI()

    async def session():
        async with AsyncSession(stage.db) as session:
            yield session

    async def body():
        yield b"a"
        await asyncio.sleep(LONG)
        yield b"b"

    @app.get("/")
    async def answer(session=Depends(session)):
        await session.execute(ONE)
        await session.commit()
        return StreamingResponse(body())

    await stage.serve(app)


@innocent()
async def dependency_with_the_scope_of_the_function(stage):
    app = FastAPI()

    async def session():
        async with AsyncSession(stage.db) as session:
            yield session

    async def body():
        yield b"a"
        await asyncio.sleep(LONG)
        yield b"b"

    @app.get("/")
    async def answer(session=Depends(session, scope="function")):
        await session.execute(ONE)
        return StreamingResponse(body())

    await stage.serve(app)


@innocent()
async def slow_query_in_a_route(stage):
    app = FastAPI()

    async def session():
        async with AsyncSession(stage.db) as session:
            yield session

    @app.get("/")
    async def answer(session=Depends(session)):
        await session.execute(SLEEP)

    await stage.call(app)


@innocent()
async def slow_query_behind_middleware(stage):
    app = FastAPI()

    class Sessions(BaseHTTPMiddleware):
        async def dispatch(self, request, call_next):
            async with AsyncSession(stage.db) as session:
                request.state.session = session
                await session.execute(ONE)
                return await call_next(request)

    app.add_middleware(Sessions)

    @app.get("/")
    async def answer(request: Request):
        await request.state.session.execute(SLEEP)

    await stage.call(app)


@innocent()
async def stream_of_rows(stage):
    app = FastAPI()

    async def body():
        async with AsyncSession(stage.db) as session:
            for _ in range(3):
                await session.execute(SLEEP)
                yield b"row"

    @app.get("/")
    async def answer():
        return StreamingResponse(body())

    await stage.serve(app)
