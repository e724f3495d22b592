"""A few threads for what is slow or blocks, with less ado than an executor.

Work costs one queue entry and one wake-up of the loop. The threads are daemons: what hangs must not
keep the process from ending.
"""

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any, TypeVar

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class _Task:
    loop: asyncio.AbstractEventLoop
    done: "asyncio.Future[Any]"
    function: Callable[[], Any]


class Threads:
    """`count` threads, started when there is work for the first time.

    A function that hangs occupies its thread for good: callers set time limits.
    """

    def __init__(self, count: int, name: str) -> None:
        self._count = count
        self._name = name
        self._started = False
        self._work: SimpleQueue[_Task | None] = SimpleQueue()

    async def run(self, function: Callable[[], Result]) -> Result:
        """Run a function in a thread and return its result, or raise what it raises.

        What nobody waits for any more is not begun.
        """
        if not self._started:
            self._start()
        loop = asyncio.get_running_loop()
        done: asyncio.Future[Result] = loop.create_future()
        self._work.put(_Task(loop, done, function))
        return await done

    def close(self) -> None:
        """End the threads that are idle, and the others when they are done."""
        for _ in range(self._count if self._started else 0):
            self._work.put(None)

    def _start(self) -> None:
        self._started = True
        for number in range(self._count):
            name = f"{self._name}-{number}"
            threading.Thread(target=self._serve, name=name, daemon=True).start()

    def _serve(self) -> None:
        while (task := self._work.get()) is not None:
            if task.done.cancelled():
                continue
            result, failure = None, None
            try:
                result = task.function()
            except BaseException as error:  # noqa: BLE001  # it is raised where run() is awaited
                failure = error
            with suppress(RuntimeError):  # the loop has ended, and with it whoever waited
                task.loop.call_soon_threadsafe(_settle, task.done, result, failure)
            del task, result, failure


def _settle(done: "asyncio.Future[Any]", result: object, failure: BaseException | None) -> None:
    if done.done():
        return
    if failure is None:
        done.set_result(result)
    else:
        done.set_exception(failure)
