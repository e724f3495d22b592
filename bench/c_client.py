"""One benchmark client: a process that uses the reference's own C client library.

Run as `python -m bench.c_client KIND CONTACT COUNT`; prints one JSON object with the seconds that
every operation took. KIND: ping, submit-waiting (two-phase jobs that are not committed), job (to
the DONE callback), status (CONTACT is then a job contact).
"""

import ctypes
import json
import sys
import time

STATE_DONE, STATE_FAILED, ALL_STATES = 8, 4, 0xFFFFF
GLOBAL_SPACE = -2
WAITING_FOR_COMMIT = 110
QUICK_JOB = b"&(executable=/bin/true)"
WAITING_JOB = b"&(executable=/bin/true)(two_phase=3600)"

CALLBACK = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int, ctypes.c_int)


class Timespec(ctypes.Structure):
    """An absolute time, as the library's event loop takes it."""

    _fields_ = [("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long)]  # ctypes


class GramClient:
    """The few calls of libglobus_gram_client that the benchmark needs."""

    def __init__(self) -> None:
        self._common = ctypes.CDLL("libglobus_common.so.0", mode=ctypes.RTLD_GLOBAL)
        self._client = ctypes.CDLL("libglobus_gram_client.so.3", mode=ctypes.RTLD_GLOBAL)
        module = ctypes.c_char.in_dll(self._client, "globus_gram_client_module")
        self._check(self._common.globus_module_activate(ctypes.byref(module)))
        self._ended: dict[bytes, int] = {}
        self._callback = CALLBACK(self._on_callback)
        self._listener: ctypes.c_char_p | None = None

    def ping(self, contact: bytes) -> None:
        """One gatekeeper ping."""
        self._check(self._client.globus_gram_client_ping(contact))

    def submit(self, contact: bytes, rsl: bytes) -> bytes:
        """Submit without callbacks; returns the job contact."""
        return self._request(contact, rsl, None)

    def listen(self) -> None:
        """Open the callback listener."""
        self._listener = ctypes.c_char_p()
        self._check(
            self._client.globus_gram_client_callback_allow(
                self._callback, None, ctypes.byref(self._listener)
            )
        )

    def run(self, contact: bytes, rsl: bytes) -> int:
        """Submit with callbacks and wait for the final one; returns the final state."""
        job = self._request(contact, rsl, self._listener)
        path = job.split(b"/", 3)[3]
        while path not in self._ended:
            now = time.time() + 1
            until = Timespec(int(now), int(now % 1 * 1e9))
            self._common.globus_callback_space_poll(ctypes.byref(until), GLOBAL_SPACE)
        return self._ended.pop(path)

    def status(self, job: bytes) -> int:
        """One status query; returns the state."""
        state, failure = ctypes.c_int(), ctypes.c_int()
        self._check(
            self._client.globus_gram_client_job_status(
                job, ctypes.byref(state), ctypes.byref(failure)
            )
        )
        return state.value

    def _request(self, contact: bytes, rsl: bytes, listener: ctypes.c_char_p | None) -> bytes:
        job = ctypes.c_char_p()
        mask = ALL_STATES if listener is not None else 0
        code = self._client.globus_gram_client_job_request(
            contact, rsl, mask, listener, ctypes.byref(job)
        )
        if code != WAITING_FOR_COMMIT:
            self._check(code)
        if job.value is None:
            raise RuntimeError("the server returned no job contact")
        return job.value

    def _on_callback(self, _arg: object, job: bytes, state: int, _error: int) -> None:
        if state in (STATE_DONE, STATE_FAILED):
            self._ended[job.split(b"/", 3)[3]] = state

    def _check(self, code: int) -> None:
        if code:
            self._client.globus_gram_client_error_string.restype = ctypes.c_char_p
            text = self._client.globus_gram_client_error_string(code)
            raise RuntimeError(f"GRAM error {code}: {text.decode()}")


def main(kind: str, contact: str, count: str) -> None:
    """Do `count` operations one after the other and report."""
    client = GramClient()
    target = contact.encode()
    seconds: list[float] = []
    contacts: list[str] = []
    if kind == "job":
        client.listen()
    print("ready", flush=True)
    sys.stdin.readline()  # all clients begin together: starting a process is not measured
    started = time.time()
    for _ in range(int(count)):
        before = time.perf_counter()
        match kind:
            case "ping":
                client.ping(target)
            case "submit-waiting":
                contacts.append(client.submit(target, WAITING_JOB).decode())
            case "job":
                if client.run(target, QUICK_JOB) != STATE_DONE:
                    raise RuntimeError("a job failed")
            case "status":
                client.status(target)
            case _:
                raise SystemExit(f"unknown kind {kind!r}")
        seconds.append(time.perf_counter() - before)
    print(
        json.dumps(
            {"started": started, "ended": time.time(), "seconds": seconds, "contacts": contacts}
        )
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
