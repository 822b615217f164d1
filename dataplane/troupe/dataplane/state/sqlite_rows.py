"""What the scripts of the SQLite state store read and write: each function is one step of a script."""

import sqlite3
from collections.abc import Mapping
from dataclasses import replace

from troupe.broker.addressing import SessionKey
from troupe.broker.order import Number, Position
from troupe.dataplane.state import rules
from troupe.dataplane.state import sqlite_control as controls
from troupe.dataplane.state import sqlite_tables as tables
from troupe.dataplane.state.control import Control, Restart
from troupe.dataplane.state.port import Companion, Resting, TurnCommit
from troupe.dataplane.state.session import RECENT, Entry, Loaded, Outgoing, Owner, Record, Sent
from troupe.dataplane.state.sqlite_tables import AWAITS, ENTRY, REDRIVABLE, REDRIVEN, STAND
from troupe.dataplane.state.verbs import FREE, Standing
from troupe.v1.turn_pb2 import Fate


def admit(db: sqlite3.Connection, owner: Owner, turn: Entry | None = None) -> None:
    """`turn`: what waits under the number of the turn that writes. Raises Fenced."""
    row = db.execute("SELECT epoch, instance FROM fence WHERE shard = ?", (owner.shard,)).fetchone()
    if rules.raises_fence(owner, row or rules.UNCLAIMED, turn):
        db.execute(
            "INSERT OR REPLACE INTO fence (shard, epoch, instance) VALUES (?, ?, ?)",
            (owner.shard, owner.epoch, owner.instance),
        )


def look(db: sqlite3.Connection, key: SessionKey, number: Number, message_id: str) -> tuple[rules.Found, bool]:
    """What the store has on a message and its number, in one look, and whether there is more to look at: the session
    has a control record."""
    settled, gaps, fate, version, controlled, *waits = db.execute(
        _FOUND, {"path": key.path, "stream": number.stream, "sequence": number.sequence, "message_id": message_id}
    ).fetchone()
    found = rules.Found(
        tables.position(settled, gaps),
        tables.entry(waits) if waits[0] is not None else None,
        fate,
        controls.bound(db, key, message_id) if controlled else FREE,
        version or 0,
    )
    return found, controlled


def load(db: sqlite3.Connection, path: str) -> Loaded:
    """All of a session."""
    version, state = db.execute("SELECT version, state FROM session WHERE path = ?", (path,)).fetchone() or (0, b"")
    covered, snapshot = db.execute("SELECT version, content FROM snapshot WHERE path = ?", (path,)).fetchone() or (
        0,
        b"",
    )
    history = db.execute("SELECT delta FROM history WHERE path = ? AND version > ? ORDER BY version", (path, covered))
    streams = db.execute("SELECT stream, settled, gaps FROM stream WHERE path = ?", (path,))
    inbox = db.execute(f"SELECT {ENTRY} FROM inbox WHERE path = ? ORDER BY place", (path,))
    recent = db.execute("SELECT message_id FROM record WHERE path = ? LIMIT ?", (path, RECENT))
    journaled = db.execute("SELECT DISTINCT message_id FROM journal WHERE path = ?", (path,))
    outbox = db.execute("SELECT target, stream, sequence, envelope FROM outbox WHERE path = ? ORDER BY place", (path,))
    sent = db.execute("SELECT target, stream, sequence, at FROM sent WHERE path = ?", (path,))
    return Loaded(
        version=version,
        state=state,
        snapshot=snapshot,
        history=[delta for (delta,) in history],
        positions={stream: tables.position(settled, gaps) for stream, settled, gaps in streams},
        inbox=[tables.entry(row) for row in inbox],
        recent=[message_id for (message_id,) in recent],
        verbs=controls.verbs(db, path),
        journaled=frozenset(message_id for (message_id,) in journaled),
        outbox=[Outgoing(target, Number(stream, last), envelope) for target, stream, last, envelope in outbox],
        sent={target: Sent(Number(stream, last), at) for target, stream, last, at in sent},
    )


def waiting(db: sqlite3.Connection, key: SessionKey, message_id: str) -> list[Entry]:
    """Where the message waits, foremost first, without SKIPs."""
    rows = db.execute(f"SELECT {ENTRY} FROM inbox WHERE {MESSAGE} AND skip = 0 ORDER BY place", (key.path, message_id))
    return [tables.entry(row) for row in rows]


def waits(db: sqlite3.Connection, key: SessionKey, number: Number) -> Entry | None:
    """What stands in the inbox under the number."""
    name = (key.path, number.stream, number.sequence)
    row = db.execute(f"SELECT {ENTRY} FROM inbox WHERE {NUMBER}", name).fetchone()
    return None if row is None else tables.entry(row)


def is_busy(db: sqlite3.Connection, key: SessionKey) -> bool:
    """Whether anything is live in the inbox."""
    return db.execute("SELECT 1 FROM inbox WHERE path = ? AND skip = 0", (key.path,)).fetchone() is not None


def position(db: sqlite3.Connection, key: SessionKey, stream: str) -> Position:
    name = (key.path, stream)
    row = db.execute("SELECT settled, gaps FROM stream WHERE path = ? AND stream = ?", name).fetchone()
    return tables.position(*row) if row else Position()


def envelope(db: sqlite3.Connection, key: SessionKey, number: Number) -> bytes:
    """Of what stands in the inbox under the number."""
    name = (key.path, number.stream, number.sequence)
    return db.execute(f"SELECT envelope FROM inbox WHERE {NUMBER}", name).fetchone()[0]  # type: ignore[no-any-return]


def insert(
    db: sqlite3.Connection, shard: int, key: SessionKey, entry: Entry, envelope: bytes, *, at_head: bool
) -> None:
    """Place an entry whose number does not wait."""
    place = _HEAD if at_head else "max(place), 0) + 1"
    db.execute(
        f"""INSERT INTO inbox (path, shard, envelope, place, {ENTRY})
            VALUES (?, ?, ?, (SELECT coalesce({place} FROM inbox WHERE path = ?), {_values(ENTRY)})""",
        (key.path, shard, envelope, key.path, *tables.row(entry)),
    )
    size = len(envelope)
    db.execute(
        """INSERT INTO session_backlog (shard, path, messages, bytes) VALUES (?, ?, 1, ?)
            ON CONFLICT (shard, path) DO UPDATE SET messages = messages + 1, bytes = bytes + excluded.bytes""",
        (shard, key.path, size),
    )
    db.execute(
        """INSERT INTO backlog (shard, messages, bytes) VALUES (?, 1, ?)
            ON CONFLICT (shard) DO UPDATE SET messages = messages + 1, bytes = bytes + excluded.bytes""",
        (shard, size),
    )


def put_first(
    db: sqlite3.Connection, shard: int, key: SessionKey, entry: Entry, body: bytes, found: rules.Found
) -> None:
    """Place at the head what may wait already, with the envelope that it has there. `found`: of its number."""
    if found.waits is not None:
        body = envelope(db, key, entry.number)
        remove(db, shard, key, entry.number)
    controls.unschedule(db, key, entry.number)
    insert(db, shard, key, entry, body, at_head=True)
    comes_again(db, key, entry, found.fate)


def remove(db: sqlite3.Connection, shard: int, key: SessionKey, number: Number) -> None:
    """Take out what waits under the number."""
    (size,) = db.execute(
        f"DELETE FROM inbox WHERE {NUMBER} RETURNING length(envelope)", (key.path, number.stream, number.sequence)
    ).fetchone()
    session = (shard, key.path)
    if not db.execute("DELETE FROM session_backlog WHERE shard = ? AND path = ? AND messages = 1", session).rowcount:
        db.execute(
            "UPDATE session_backlog SET messages = messages - 1, bytes = bytes - ? WHERE shard = ? AND path = ?",
            (size, *session),
        )
    db.execute("UPDATE backlog SET messages = messages - 1, bytes = bytes - ? WHERE shard = ?", (size, shard))


def rewrite(db: sqlite3.Connection, key: SessionKey, entry: Entry, *, at_head: bool = False) -> None:
    """What waits under the entry's number stands like this from now on, with the name and envelope that it has."""
    place = f"(SELECT coalesce({_HEAD} FROM inbox WHERE path = ?)" if at_head else "place"
    number = (key.path, entry.number.stream, entry.number.sequence)
    db.execute(
        f"UPDATE inbox SET ({STAND}, place) = ({_values(STAND)}, {place}) WHERE {NUMBER}",
        (*tables.stand(entry), *([key.path] if at_head else []), *number),
    )


def save_position(db: sqlite3.Connection, key: SessionKey, stream: str, position: Position, now: float) -> None:
    """The stream stands there now, and is as young as `now`."""
    db.execute(
        """INSERT INTO stream (path, stream, settled, gaps, touched) VALUES (?, ?, ?, ?, ?)
            ON CONFLICT (path, stream) DO UPDATE
            SET settled = excluded.settled, gaps = excluded.gaps, touched = excluded.touched""",
        (key.path, stream, position.settled, tables.gaps(position), now),
    )


def end(
    db: sqlite3.Connection,
    shard: int,
    key: SessionKey,
    ended: TurnCommit | Companion,
    found: rules.Found,
    positions: Mapping[str, Position],
    now: float,
    *,
    controlled: bool,
) -> None:
    """Settle one message of a turn. `found`: of it; `positions`: after the commit."""
    number, record = ended.number, ended.record
    save_position(db, key, number.stream, positions[number.stream], now)
    if found.waits is not None:
        remove(db, shard, key, number)
    if record is not None:
        settle(db, key, ended.message_id, record, now, controlled=controlled)
    if found.fate in rules.REDRIVABLE:
        came(db, key, ended.message_id, number)
    if controlled:
        controls.settle_number(db, key, number)


def settle(
    db: sqlite3.Connection, key: SessionKey, message_id: str, record: Record, now: float, *, controlled: bool = True
) -> None:
    """Write the record, where it may be; what waits under this id keeps its place as a SKIP. `controlled`: its session
    has a control record."""
    name = (key.path, message_id)
    db.execute(f"UPDATE inbox SET skip = 1 WHERE {MESSAGE} AND skip = 0", name)
    stays = record.fate in rules.REDRIVABLE
    written = db.execute(_RECORD, (*name, record.fate, record.status, record.digest, now, stays)).rowcount
    if written and not stays:
        db.execute(f"DELETE FROM journal WHERE {MESSAGE}", name)
    if controlled:
        controls.settle(db, key, message_id, now, ended=bool(written), withdraws=bool(written and not stays))


def standing(db: sqlite3.Connection, key: SessionKey, control: Control) -> Standing:
    """What a verb finds."""
    row = db.execute(
        f"SELECT fate, {AWAITS}, stays FROM record WHERE {MESSAGE}", (key.path, control.message_id)
    ).fetchone()
    fate, awaited, stays = row or (None, False, False)
    return Standing(
        waiting=waiting(db, key, control.message_id),
        scheduled=controls.scheduled(db, key, control.message_id),
        fate=fate,
        final=rules.is_final(fate),
        awaited=bool(awaited),
        purged=fate in rules.REDRIVABLE and not stays,
        steps=steps(db, key, control.message_id),
        cancelled=controls.bound(db, key, control.message_id).cancelled,
        pauses=controls.pauses(db, key, control.message_id),
        lifted=controls.is_lifted(db, key, control),
    )


def steps(db: sqlite3.Connection, key: SessionKey, message_id: str) -> int:
    """In the message's journal."""
    (count,) = db.execute(f"SELECT count(*) FROM journal WHERE {MESSAGE}", (key.path, message_id)).fetchone()
    return count  # type: ignore[no-any-return]


def journal(db: sqlite3.Connection, key: SessionKey, message_id: str, digest: bytes) -> dict[str, bytes]:
    """What one payload came to, by step."""
    name = (key.path, message_id, digest)
    return dict(db.execute(f"SELECT step, content FROM journal WHERE {MESSAGE} AND digest = ?", name).fetchall())


def add_steps(
    db: sqlite3.Connection, key: SessionKey, message_id: str, digest: bytes, added: Mapping[str, bytes]
) -> None:
    """To the journal; a step that is there stays as it is."""
    db.executemany(
        "INSERT OR IGNORE INTO journal (path, message_id, digest, step, content) VALUES (?, ?, ?, ?, ?)",
        [(key.path, message_id, digest, *step) for step in added.items()],
    )


def resting(db: sqlite3.Connection, key: SessionKey, message_id: str) -> Resting | None:
    """What a RESTART needs of the message."""
    waits = next(iter(waiting(db, key, message_id)), None)
    record = db.execute(
        f"SELECT fate, {AWAITS}, stays, digest FROM record WHERE {MESSAGE}", (key.path, message_id)
    ).fetchone()
    if waits is None and (record is None or record[0] not in rules.REDRIVABLE or record[1]):
        return None
    digest = waits.digest if waits else record[3]
    return Resting(
        digest,
        envelope(db, key, waits.number) if waits else b"",
        journal(db, key, message_id, digest),
        steps(db, key, message_id),
        controls.promises_of(db, key, message_id),
        purged=waits is None and not record[2],
    )


def restart(db: sqlite3.Connection, shard: int, key: SessionKey, message_id: str, to: Restart, now: float) -> None:
    """Another message goes on from what this one has done."""
    entry = replace(to.entry, placed=now, due=now)
    controls.put_on_schedule(db, shard, key, entry, to.envelope)
    add_steps(db, key, entry.message_id, entry.digest, to.journal)
    db.executemany(
        "UPDATE promise SET message_id = ? WHERE path = ? AND id = ? AND message_id = ?",
        [(entry.message_id, key.path, promise_id, message_id) for promise_id in to.promises],
    )


def fate_of(db: sqlite3.Connection, key: SessionKey, message_id: str) -> tuple[Fate.ValueType | None, bool]:
    """The fate in the message's record, and whether a redriven copy of it is on its way."""
    row = db.execute(f"SELECT fate, {AWAITS} FROM record WHERE {MESSAGE}", (key.path, message_id)).fetchone()
    return (None, False) if row is None else (row[0], bool(row[1]))


def is_past(db: sqlite3.Connection, key: SessionKey, message_id: str) -> bool:
    """Whether a deletion leaves the message as it is."""
    waits = bool(waiting(db, key, message_id)) or controls.scheduled(db, key, message_id) is not None
    return rules.is_past(fate_of(db, key, message_id)[0], waits=waits)


def await_(db: sqlite3.Connection, key: SessionKey, message_id: str, number: Number) -> None:
    """A redriven copy of the message is on its way under this number."""
    db.execute(
        f"UPDATE record SET awaited_stream = ?, awaited_sequence = ?, stays = 1 WHERE {MESSAGE}",
        (number.stream, number.sequence, key.path, message_id),
    )


def comes_again(db: sqlite3.Connection, key: SessionKey, placed: Entry, fate: Fate.ValueType | None) -> None:
    """What was placed may be a redriven copy that nobody was told of. `fate`: of its message's record."""
    if rules.is_next_try(placed, fate) and not fate_of(db, key, placed.message_id)[1]:
        await_(db, key, placed.message_id, placed.number)


def came(db: sqlite3.Connection, key: SessionKey, message_id: str, settled: Number) -> None:
    """A copy that is settled is awaited no more."""
    db.execute(
        f"""UPDATE record SET awaited_stream = NULL, awaited_sequence = NULL
            WHERE {MESSAGE} AND awaited_stream = ? AND awaited_sequence = ?""",
        (key.path, message_id, settled.stream, settled.sequence),
    )


def save_session(db: sqlite3.Connection, shard: int, commit: TurnCommit, version: int) -> None:
    """What a turn that ended DONE changes."""
    path = commit.key.path
    db.execute(
        """INSERT INTO session (path, shard, version, turns, state, usage, created, updated, goes)
            VALUES (:path, :shard, :version, 1, coalesce(:state, x''), coalesce(:usage, x''), :now, :now, :goes)
            ON CONFLICT (path) DO UPDATE SET version = :version, turns = turns + 1,
                state = coalesce(:state, state), usage = coalesce(:usage, usage), updated = :now, goes = :goes""",
        {
            "path": path,
            "shard": shard,
            "version": version,
            "state": commit.state,
            "usage": commit.usage,
            "now": commit.now,
            "goes": commit.now + commit.retention,
        },
    )
    if commit.history is not None:
        db.execute("INSERT INTO history (path, version, delta) VALUES (?, ?, ?)", (path, version, commit.history))
    if commit.snapshot is not None:
        db.execute(
            "INSERT OR REPLACE INTO snapshot (path, version, content) VALUES (?, ?, ?)",
            (path, version, commit.snapshot),
        )
    for name in commit.forget_reminders:
        db.execute("DELETE FROM reminder WHERE path = ? AND name = ?", (path, name))
    for reminder in commit.remind:
        controls.remind(db, shard, commit.key, reminder)
    for message in commit.outbox:
        stream, sequence = message.number.stream, message.number.sequence
        db.execute(
            "INSERT INTO outbox (path, shard, target, stream, sequence, envelope) VALUES (?, ?, ?, ?, ?, ?)",
            (path, shard, message.target, stream, sequence, message.envelope),
        )
        db.execute(
            "INSERT OR REPLACE INTO sent (path, target, stream, sequence, at) VALUES (?, ?, ?, ?, ?)",
            (path, message.target, stream, sequence, commit.now),
        )


def _values(columns: str) -> str:
    return ", ".join("?" for _ in columns.split(", "))


NUMBER = "path = ? AND stream = ? AND sequence = ?"
"""The condition for one place in the inbox."""
MESSAGE = "path = ? AND message_id = ?"
"""The condition for one message."""
_HEAD = "min(place), 0) - 1"
_FOUND = f"""
    SELECT stream.settled, stream.gaps, record.fate, session.version,
        control.path IS NOT NULL,
        {", ".join(f"inbox.{column}" for column in ENTRY.split(", "))}
    FROM (SELECT 1)
        LEFT JOIN stream ON stream.path = :path AND stream.stream = :stream
        LEFT JOIN record ON record.path = :path AND record.message_id = :message_id
        LEFT JOIN session ON session.path = :path
        LEFT JOIN control ON control.path = :path
        LEFT JOIN inbox ON inbox.path = :path AND inbox.stream = :stream AND inbox.sequence = :sequence
"""
_RECORD = f"""
    INSERT INTO record (path, message_id, fate, status, digest, settled, stays) VALUES (?, ?, ?, ?, ?, ?, ?)
    ON CONFLICT (path, message_id) DO UPDATE
    SET fate = excluded.fate, status = excluded.status, digest = excluded.digest, settled = excluded.settled,
        stays = excluded.stays
    WHERE fate IN {REDRIVABLE} AND excluded.fate IN {REDRIVEN}
"""
