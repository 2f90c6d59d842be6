"""When clients may come, and who is told."""

from __future__ import annotations

from xds.admin.readiness import ENDING, NOT_LISTENING, NOT_SYNCED, Readiness


def test_a_server_is_ready_once_it_is_synced_and_listens() -> None:
    readiness, reasons = Readiness(), list[str | None]()
    readiness.subscribe(lambda: reasons.append(readiness.reason))
    before = readiness.reason
    readiness.note_synced()
    readiness.note_listening()
    readiness.note_synced()  # each further world
    readiness.note_ending()

    assert before == NOT_SYNCED
    assert reasons == [NOT_LISTENING, None, ENDING]


def test_what_has_ended_is_not_ready_again() -> None:
    readiness = Readiness()
    readiness.note_ending()
    readiness.note_synced()
    readiness.note_listening()

    assert readiness.reason == ENDING
