"""The spawner: answers the service's requests, keeps the agents and the table of containers.

The service authenticates by the socket the spawner was born with; there is no other way in.  The
spawner itself never waits for anything but its sockets and never touches a user's files.
"""

import errno
import os
import re
import signal
import socket
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

from . import frames, spool
from .agents import run_agent
from .channel import Channel, Packet
from .child import read_failure
from .codec import Frame, FrameError, decode
from .loop import Loop
from .policy import RefusalError, resolve
from .shepherd import Assignment, run_shepherd

_RECONNECT = 0.05  # seconds between attempts to reach a shepherd that is known to live
_LIST_PATIENCE = 10  # as many times are shepherds waited for before a list goes without them
_AGENT_GRACE = 2.0  # seconds from SIGTERM to SIGKILL

ShepherdRequest = frames.Signal | frames.Freeze | frames.Thaw | frames.Kill | frames.ListMembers
T = TypeVar("T")


@dataclass(slots=True)
class Container:
    """A container that has not ended: the way to its shepherd and the answers it still owes."""

    name: str
    launch: int  # the request that is starting it; 0: launched by an earlier spawner
    channel: Channel | None = None
    info: frames.ContainerInfo | None = None
    owed: set[int] = field(default_factory=set)


class Spawner:
    """One service's spawner; `run` returns when the service has gone."""

    def __init__(self, service: socket.socket) -> None:
        self._loop = Loop()
        self._service = self._loop.attach(
            service, self._on_request, self._loop.stop, backpressure=True
        )
        self._policy: frames.SpawnerPolicy | None = None
        self._containers: dict[str, Container] = {}
        self._agents: set[int] = set()

    def run(self) -> None:
        """Serve until the service closes its socket; the shepherds go on without us."""
        self._loop.on_signals({signal.SIGCHLD: self._reap, signal.SIGTERM: self._loop.stop})
        self._loop.run()
        self._stop_all_agents()

    def _tell(self, frame: Frame, descriptors: Sequence[int] = ()) -> None:
        self._service.send(frame, descriptors)

    def _refuse(self, request_id: int, stage: str, code: int, text: str) -> None:
        self._tell(frames.Refused(request_id, stage, code, text[:2000]))

    # Requests.

    def _on_request(self, packet: Packet) -> None:
        request_id = 0
        try:
            if packet.payload is None:
                raise FrameError("the frame is too long")
            frame = decode(packet.payload, frames.REQUESTS)
            request_id = getattr(frame, "id", 0)
            expected = frame.descriptors if isinstance(frame, frames.Launch) else 0
            if len(packet.descriptors) != expected:
                text = f"{len(packet.descriptors)} descriptors came, {expected} were announced"
                raise RefusalError("descriptors", errno.EBADF, text)
            self._serve(frame, packet.descriptors)
        except FrameError as error:
            self._refuse(error.request_id or request_id, "frame", 0, str(error))
        except RefusalError as refusal:
            self._refuse(request_id, refusal.stage, refusal.errno, refusal.text)
        except OSError as error:
            code = error.errno or errno.EIO
            self._refuse(request_id, "spawner", code, os.strerror(code))

    def _serve(self, frame: Frame, descriptors: Sequence[int]) -> None:
        if isinstance(frame, frames.SpawnerPolicy):
            self._set_policy(frame)
            return
        if self._policy is None:
            raise RefusalError("policy", errno.EPERM, "the policy has to come first")
        match frame:
            case frames.StartAgent():
                self._start_agent(frame, self._policy)
            case frames.StopAgent():
                self._stop_agent(frame.pid)
                self._tell(frames.Done(frame.id))
            case frames.Launch():
                self._launch(frame, self._policy, descriptors)
            case frames.ListContainers():
                self._list_containers(frame.id, _LIST_PATIENCE)
            case frames.ListRecords():
                records = list(spool.records())
                self._tell_list(partial(frames.Records, frame.id), records, frames.RECORD_BATCH)
            case frames.Forget():
                self._forget(frame.container)
                self._tell(frames.Done(frame.id))
            case frames.Ping():
                self._tell(frames.Done(frame.id))
            case _:
                self._relay(frame)

    def _set_policy(self, policy: frames.SpawnerPolicy) -> None:
        if self._policy is not None:
            raise RefusalError("policy", errno.EPERM, "the policy cannot be changed")
        if policy.personal != (os.geteuid() != 0):
            raise RefusalError("policy", errno.EPERM, "personal mode is exactly not to be root")
        try:
            re.compile(policy.accounts or "")
        except re.error as error:
            raise RefusalError("policy", errno.EINVAL, f"accounts: {error}") from None
        spool.enter(policy)
        self._policy = policy
        self._tell(frames.Ready(os.getpid(), os.geteuid()))
        for name in spool.unfinished():
            self._containers[name] = Container(name, launch=0)
            self._recover(self._containers[name])

    def _list_containers(self, request_id: int, patience: int) -> None:
        boxes = self._containers.values()
        if patience and any(box.info is None and box.launch == 0 for box in boxes):
            # Just taken over: their shepherds are about to say how they are.
            again = partial(self._list_containers, request_id, patience - 1)
            self._loop.later(_RECONNECT, again)
            return
        infos = [box.info or spool.known_info(box.name) for box in boxes]
        self._tell_list(partial(frames.Containers, request_id), infos, frames.CONTAINER_BATCH)

    def _tell_list(
        self, part: Callable[[tuple[T, ...], bool], Frame], items: Sequence[T], size: int
    ) -> None:
        for start in range(0, max(len(items), 1), size):
            end = start + size
            self._tell(part(tuple(items[start:end]), end < len(items)))

    # Containers.

    def _launch(
        self, frame: frames.Launch, policy: frames.SpawnerPolicy, descriptors: Sequence[int]
    ) -> None:
        request = frame.request
        if len(descriptors) != 1 + 3 * request.processes:
            raise RefusalError("descriptors", errno.EINVAL, "not one and three for each process")
        account = resolve(request.account, policy)
        started = time.time()
        lock = spool.reserve(request.container, spool.JobNote(account.name, started, ()))
        try:
            ours, theirs = socket.socketpair()
            with theirs:
                if os.fork() == 0:
                    run_shepherd(
                        Assignment(
                            frame, account, policy.job_no_new_privs, descriptors, lock, started
                        ),
                        theirs,
                    )
        except OSError:
            spool.forget(request.container)
            raise
        finally:
            os.close(lock)
        box = Container(request.container, launch=frame.id, owed={frame.id})
        self._containers[box.name] = box
        self._connect(box, ours)

    def _connect(self, box: Container, sock: socket.socket) -> None:
        box.channel = self._loop.attach(
            sock, partial(self._on_shepherd, box), partial(self._on_shepherd_closed, box)
        )

    def _relay(self, frame: Frame) -> None:
        """Hand a request about one container to its shepherd, whose answer goes back as it is."""
        if not isinstance(frame, ShepherdRequest):
            raise FrameError("not a request")
        box = self._containers.get(frame.container)
        if box is None:
            raise RefusalError("container", errno.ESRCH, "no such living container")
        if box.channel is None:
            raise RefusalError("container", errno.EAGAIN, "its shepherd is being looked for")
        box.owed.add(frame.id)
        box.channel.send(frame)

    def _forget(self, container: str) -> None:
        if container in self._containers:
            raise RefusalError("container", errno.EBUSY, "the container has not ended")
        spool.forget(container)

    def _on_shepherd(self, box: Container, packet: Packet) -> None:
        try:
            frame = decode(packet.payload or b"", frames.SHEPHERD_ANSWERS)
        except FrameError:  # one of another version: its exit record is all we can have of it
            self._lose_contact(box)
            self._loop.later(_RECONNECT, partial(self._recover, box))
            return
        if isinstance(frame, frames.Ended):
            self._end(box, frame.record)
            return
        if isinstance(frame, frames.Launched):
            box.info = frame.info
        request_id = getattr(frame, "id", 0)
        if isinstance(frame, frames.Refused) and request_id == box.launch:
            self._containers.pop(box.name, None)  # nothing of it runs
        if request_id in box.owed:
            box.owed.discard(request_id)
            self._tell(frame)

    def _on_shepherd_closed(self, box: Container) -> None:
        self._lose_contact(box)
        self._recover(box)

    def _recover(self, box: Container) -> None:
        """Find out about a container without a connection: ended, taken back, lost or living."""
        if self._containers.get(box.name) is not box:
            return
        try:
            abandoned = spool.is_abandoned(box.name)  # asked first: a record may come until then
            ended = spool.read_record(box.name)
            if ended is None and not abandoned:
                self._connect(box, spool.connect(box.name))
                return
            if ended is None and not spool.has_note(box.name):
                self._take_back(box)
                return
            if ended is None:
                ended = spool.bare_record(box.name, "lost")
                spool.settle(spool.write_record(ended))
        except OSError:
            self._loop.later(_RECONNECT, partial(self._recover, box))
            return
        self._end(box, ended)

    def _take_back(self, box: Container) -> None:
        """The launch failed; who has not asked for it may have seen it in a list."""
        del self._containers[box.name]
        if box.launch == 0:
            self._tell(frames.Ended(spool.bare_record(box.name, "launch-failed")))

    def _end(self, box: Container, ended: frames.ExitRecord) -> None:
        if self._containers.get(box.name) is box:
            del self._containers[box.name]
        self._lose_contact(box)
        self._tell(frames.Ended(ended))

    def _lose_contact(self, box: Container) -> None:
        if box.channel is not None:
            self._loop.detach(box.channel)
            box.channel = None
        for request_id in box.owed:
            self._refuse(request_id, "container", errno.ESRCH, "the container's shepherd has gone")
        box.owed.clear()

    # Agents.

    def _start_agent(self, frame: frames.StartAgent, policy: frames.SpawnerPolicy) -> None:
        account = resolve(frame.account, policy)
        ours, theirs = socket.socketpair()
        report, report_end = os.pipe()
        try:
            pid = os.fork()
            if pid == 0:
                run_agent(account, theirs, report_end, no_new_privs=policy.agent_no_new_privs)
        except OSError:
            ours.close()
            os.close(report)
            raise
        finally:
            theirs.close()
            os.close(report_end)
        self._agents.add(pid)
        self._loop.watch(report, partial(self._on_agent, frame.id, pid, report, ours))

    def _on_agent(self, request_id: int, pid: int, report: int, sock: socket.socket) -> None:
        """A new agent says why it cannot serve, or (end of file) that it does."""
        failure = read_failure(os.read(report, 4096))
        self._loop.unwatch(report)
        os.close(report)
        with sock:
            if failure is None:
                self._tell(frames.AgentStarted(request_id, pid), (sock.fileno(),))
            else:
                self._refuse(request_id, failure.stage, failure.errno, failure.text)

    def _stop_agent(self, pid: int) -> None:
        if pid not in self._agents:
            raise RefusalError("agent", errno.ESRCH, "no such agent")
        os.killpg(pid, signal.SIGTERM)
        self._loop.later(_AGENT_GRACE, partial(self._kill_agent, pid))

    def _kill_agent(self, pid: int) -> None:
        if pid in self._agents:
            os.killpg(pid, signal.SIGKILL)

    def _stop_all_agents(self) -> None:
        for signum, patience in ((signal.SIGTERM, _AGENT_GRACE), (signal.SIGKILL, 0.0)):
            for pid in self._agents:
                with suppress(ProcessLookupError):  # it has not even made its session yet
                    os.killpg(pid, signum)
            deadline = time.monotonic() + patience
            while self._agents and time.monotonic() < deadline:
                time.sleep(0.01)
                self._reap()

    def _reap(self) -> None:
        """Take ended agents and shepherds; what a shepherd leaves is told by its socket."""
        with suppress(ChildProcessError):
            while pid := os.waitpid(-1, os.WNOHANG)[0]:
                self._agents.discard(pid)
