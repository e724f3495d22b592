"""Jobs at a scripted job manager: queries, waiting, and what goes wrong."""

import asyncio

import pytest

from gram.client import (
    ConnectionFailed,
    ErrorCode,
    GramClientError,
    JobGone,
    JobState,
    NotTrusted,
    Refused,
    Signal,
    WaitTimeout,
)
from protocol.errors import GramError
from protocol.messages import (
    CancelQuery,
    QueryReply,
    RegisterQuery,
    RenewQuery,
    SignalQuery,
    StatusQuery,
    UnregisterQuery,
)
from tests.gram.lab import Lab
from tests.gram.servers import GONE, accepting, gatekeeper, job_manager, reply

RSL = "&(executable=/bin/true)"


async def test_queries(lab: Lab) -> None:
    async with job_manager(lab) as manager, lab.client() as client:
        job = client.job(manager.contact)
        assert (await job.status()).state is JobState.ACTIVE
        manager.answer = reply(JobState.FAILED, 8)
        cancelled = await job.cancel()
        assert (cancelled.state, cancelled.failure_code) == (JobState.FAILED, 8)
        await job.signal(Signal.PRIORITY, 'a "b"')
        await job.signal(99)
        assert manager.signals() == [(4, 'a "b"'), (99, "")]
        await job.commit()
        await job.commit_end()
        assert manager.signals()[2:] == [(5, "commit"), (10, "commit")]
        assert manager.kinds() == [StatusQuery, CancelQuery, SignalQuery]


async def test_refused_query(lab: Lab) -> None:
    async with job_manager(lab) as manager, lab.client() as client:
        manager.refuse = {SignalQuery: 27, CancelQuery: 4711}
        with pytest.raises(Refused) as signal:
            await client.job(manager.contact).signal(Signal.SUSPEND, "x")
        assert signal.value.code is ErrorCode.UNIMPLEMENTED
        with pytest.raises(Refused, match="error 4711"):
            await client.job(manager.contact).cancel()


async def test_unknown_job(lab: Lab) -> None:
    async with job_manager(lab) as manager, lab.client() as client:
        job = client.job(manager.contact.replace("222", "333"))
        assert (await job.status()).gone
        for query in (job.cancel, job.commit, job.renew):
            with pytest.raises(JobGone):
                await query()


async def test_state_that_does_not_exist(lab: Lab) -> None:
    async with job_manager(lab) as manager, lab.client() as client:
        manager.answer = QueryReply(5, 0, 0)
        with pytest.raises(GramClientError, match="state 5"):
            await client.job(manager.contact).status()


async def test_job_manager_of_another_identity(lab: Lab) -> None:
    async with job_manager(lab, lab.mallory) as manager, lab.client() as client:
        with pytest.raises(NotTrusted, match="Mallory"):
            await client.job(manager.contact).status()
        assert manager.asked == []


async def test_job_manager_with_the_subject_in_the_contact(lab: Lab) -> None:
    async with job_manager(lab, lab.host) as manager, lab.client() as client:
        with pytest.raises(NotTrusted):
            await client.job(manager.contact).status()
        subject = lab.host.identity
        assert (await client.job(f"{manager.contact}:{subject}").status()).name == "ACTIVE"
        with pytest.raises(NotTrusted):
            await client.job(f"{manager.contact}:{subject}x").status()


async def test_unreachable_job_manager_is_not_a_finished_job(lab: Lab) -> None:
    async with job_manager(lab) as manager, lab.client() as client:
        job = client.job(manager.contact)
    async with lab.client() as client:
        with pytest.raises(ConnectionFailed) as failed:
            await client.job(job.contact).status()
        assert failed.value.code is ErrorCode.CONTACTING_JOB_MANAGER
        assert "still be running" in failed.value.advice
        with pytest.raises(WaitTimeout):
            await client.job(job.contact).wait(0.5)


async def test_renewal(lab: Lab) -> None:
    async with job_manager(lab) as manager, lab.client() as client:
        manager.answer = reply(JobState.SUSPENDED)
        assert (await client.job(manager.contact).renew()).state is JobState.SUSPENDED
        assert manager.renewed[0].identity == lab.alice.identity
        manager.refuse = {RenewQuery: 94}
        with pytest.raises(Refused) as refused:
            await client.job(manager.contact).renew(full=True)
        assert refused.value.code is ErrorCode.JOB_QUERY_DENIAL


async def test_waiting_by_callbacks(lab: Lab) -> None:
    async with job_manager(lab) as manager, lab.client(poll_interval=60) as client:
        async with gatekeeper(lab, accepting(manager)) as door:
            job = await client.submit(door.contact, RSL)
        await manager.callback(JobState.ACTIVE)
        waiting = asyncio.create_task(job.wait())
        await manager.callback(JobState.DONE)
        assert (await waiting).succeeded
        assert [event.status.name async for event in job.events()] == ["ACTIVE", "DONE"]
        assert manager.asked == []


async def test_callback_that_overtakes_the_reply(lab: Lab) -> None:
    async with job_manager(lab) as manager, lab.client(poll_interval=60) as client:
        accept = accepting(manager)

        async def behave(request: object) -> object:
            answer = await accept(request)  # type: ignore[arg-type]  # a job request
            await manager.callback(JobState.DONE)
            return answer

        async with gatekeeper(lab, behave) as door:  # type: ignore[arg-type]  # as above
            job = await client.submit(door.contact, RSL)
        assert (await job.wait(5)).succeeded


async def test_lost_callbacks_are_made_up_for_by_polling(lab: Lab) -> None:
    async with job_manager(lab) as manager, lab.client(poll_interval=0.05) as client:
        async with gatekeeper(lab, accepting(manager)) as door:
            job = await client.submit(door.contact, RSL)
        events = job.events()
        assert (await anext(events)).status.state is JobState.ACTIVE
        manager.answer = reply(JobState.DONE, exit_code=4)
        assert (await anext(events)).status.exit_code == 4
        assert [event async for event in events] == []


async def test_gone_without_a_final_callback_is_not_done(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gram.client.job.GRACE", 0.05)
    async with job_manager(lab) as manager, lab.client(poll_interval=0.05) as client:
        async with gatekeeper(lab, accepting(manager)) as door:
            job = await client.submit(door.contact, RSL)
        await manager.callback(JobState.ACTIVE)
        manager.answer = GONE
        final = await job.wait(10)
        assert final.gone
        assert not final.succeeded


async def test_final_callback_that_comes_after_the_job_is_forgotten(lab: Lab) -> None:
    async with job_manager(lab) as manager, lab.client(poll_interval=0.05) as client:
        async with gatekeeper(lab, accepting(manager)) as door:
            job = await client.submit(door.contact, RSL)
        manager.answer = GONE
        waiting = asyncio.create_task(job.wait(10))
        while not manager.asked:
            await asyncio.sleep(0.01)
        await manager.callback(JobState.FAILED, 17)
        assert (await waiting).failure_code == 17
        assert (await job.status()).failure_code == 17  # we remember


async def test_attached_job_registers_and_leaves(lab: Lab) -> None:
    async with job_manager(lab) as manager:
        async with lab.client(poll_interval=60) as client:
            job = client.job(manager.contact)
            with pytest.raises(WaitTimeout):
                await job.wait(0.3)
            assert manager.callback_url
        assert manager.kinds() == [RegisterQuery, StatusQuery, UnregisterQuery]
        assert manager.callback_url == ""


async def test_attached_job_that_takes_no_callbacks_is_polled(lab: Lab) -> None:
    async with job_manager(lab) as manager, lab.client() as client:
        manager.refuse = {RegisterQuery: 94}
        job = client.job(manager.contact)
        waiting = asyncio.create_task(job.wait(10))
        while StatusQuery not in manager.kinds():
            await asyncio.sleep(0.01)
        manager.answer = reply(JobState.DONE)
        assert (await waiting).succeeded


async def test_moved_job_manager(lab: Lab) -> None:
    async with job_manager(lab) as old, job_manager(lab) as new, lab.client() as client:
        async with gatekeeper(lab, accepting(old)) as door:
            job = await client.submit(door.contact, RSL)
        await new.callback(JobState.SUSPENDED, url=old.callback_url, contact=new.contact)
        async for event in job.events():
            if event.status.state is JobState.SUSPENDED:
                break
        await asyncio.wait_for(job._poll(), 5)
        assert job.contact == new.contact
        assert new.kinds() == [StatusQuery]
        await job.cancel()
        assert CancelQuery in new.kinds()


async def test_callbacks_of_others_change_nothing(lab: Lab) -> None:
    async with job_manager(lab) as manager, lab.client(poll_interval=60) as client:
        async with gatekeeper(lab, accepting(manager)) as door:
            job = await client.submit(door.contact, RSL)
        with pytest.raises(GramError):
            await manager.callback(JobState.DONE, credential=lab.mallory)
        with pytest.raises(WaitTimeout):
            await job.wait(0.2)


@pytest.mark.parametrize("final", [JobState.DONE, JobState.FAILED])
async def test_two_phase_commit(lab: Lab, final: JobState) -> None:
    async with (
        job_manager(lab) as manager,
        gatekeeper(lab, accepting(manager, ErrorCode.WAITING_FOR_COMMIT)) as door,
        lab.client(poll_interval=60) as client,
    ):
        job = await client.submit(door.contact, RSL)
        assert manager.signals() == [(5, "commit")]
        await manager.callback(final, 8 if final is JobState.FAILED else 0)
        assert (await job.wait()).state is final
        assert manager.signals()[1:] == [(10, "commit")]
        await job.wait()
        assert len(manager.signals()) == 2  # the end is committed once
        assert (await client.submit(door.contact, RSL, commit=False)).contact
        assert len(manager.signals()) == 2


async def test_end_that_is_committed_already(lab: Lab) -> None:
    async with job_manager(lab) as manager, lab.client(poll_interval=60) as client:
        async with gatekeeper(lab, accepting(manager, ErrorCode.WAITING_FOR_COMMIT)) as door:
            job = await client.submit(door.contact, RSL)
        manager.refuse = {SignalQuery: ErrorCode.INVALID_COMMIT}
        await manager.callback(JobState.DONE)
        assert (await job.wait(5)).succeeded


async def test_stopped_manager_is_told_from_a_failed_job(lab: Lab) -> None:
    async with job_manager(lab) as manager, lab.client(poll_interval=60) as client:
        async with gatekeeper(lab, accepting(manager)) as door:
            job = await client.submit(door.contact, RSL)
        await manager.callback(JobState.FAILED, ErrorCode.USER_PROXY_EXPIRED)
        assert (await job.wait(5)).unsupervised
