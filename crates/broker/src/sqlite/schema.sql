-- What the queue and the routes read often is a narrow row; what is large stands beside it.
CREATE TABLE jobs (
    number INTEGER PRIMARY KEY AUTOINCREMENT,   -- the order of arrival
    job_id TEXT NOT NULL UNIQUE,
    operation TEXT NOT NULL,                    -- its tag
    owner TEXT,
    priority INTEGER NOT NULL,                  -- 0 low, 1 normal, 2 high
    kind TEXT NOT NULL,                         -- what it wants, as in `Want`
    model TEXT NOT NULL,
    hive_id TEXT,
    worker_id TEXT,
    state TEXT NOT NULL,                        -- `running` from the claim on
    attempt INTEGER NOT NULL DEFAULT 0,         -- the number of the last claim
    crashes INTEGER NOT NULL DEFAULT 0,
    not_before_ms INTEGER NOT NULL DEFAULT 0,
    cancelled INTEGER NOT NULL DEFAULT 0,       -- somebody asked it to end
    holder TEXT,                                -- the hive that claimed it last, and how
    incarnation INTEGER,
    claim_id TEXT,
    sequence INTEGER NOT NULL DEFAULT 0,        -- events of this attempt that were appended
    ended_by INTEGER,                           -- the attempt that ended it, if one did
    last_event_id INTEGER NOT NULL DEFAULT 0,
    stored INTEGER NOT NULL DEFAULT 0,          -- events on disk
    bytes INTEGER NOT NULL DEFAULT 0,           -- of the operation and the events
    progress TEXT,
    used_model TEXT,
    used_worker TEXT,
    created_ms INTEGER NOT NULL,
    started_ms INTEGER,
    finished_ms INTEGER,
    pictures TEXT,                              -- `PictureRef`s, once complete
    picture_format TEXT
) STRICT;
CREATE INDEX jobs_unfinished ON jobs (number) WHERE finished_ms IS NULL;
CREATE INDEX jobs_finished ON jobs (finished_ms, number, bytes) WHERE finished_ms IS NOT NULL;
CREATE INDEX jobs_owner ON jobs (owner, number) WHERE owner IS NOT NULL;
CREATE INDEX jobs_state ON jobs (state, number);

CREATE TABLE operations (job INTEGER PRIMARY KEY, operation TEXT NOT NULL) STRICT;

-- The picture of a `complete` is not in it; it is put back when it is read.
CREATE TABLE events (
    job INTEGER NOT NULL,
    id INTEGER NOT NULL,
    event TEXT NOT NULL,
    PRIMARY KEY (job, id)
) STRICT, WITHOUT ROWID;

CREATE TABLE idempotency (
    owner TEXT NOT NULL,                        -- empty where there is none
    key TEXT NOT NULL,
    body BLOB NOT NULL,                         -- its SHA-256
    job INTEGER NOT NULL,
    PRIMARY KEY (owner, key)
) STRICT, WITHOUT ROWID;
CREATE INDEX idempotency_job ON idempotency (job);

CREATE TABLE blobs (
    id TEXT PRIMARY KEY,
    bytes INTEGER NOT NULL,
    put_ms INTEGER NOT NULL,
    uses INTEGER NOT NULL DEFAULT 0             -- kept by the triggers below
) STRICT, WITHOUT ROWID;
CREATE INDEX blobs_unused ON blobs (put_ms) WHERE uses = 0;
CREATE INDEX blobs_used ON blobs (bytes) WHERE uses > 0;
CREATE TABLE blob_uses (
    job INTEGER NOT NULL,
    blob TEXT NOT NULL,
    PRIMARY KEY (job, blob)
) STRICT, WITHOUT ROWID;
CREATE TRIGGER blob_used AFTER INSERT ON blob_uses BEGIN
    UPDATE blobs SET uses = uses + 1 WHERE id = new.blob;
END;
CREATE TRIGGER blob_released AFTER DELETE ON blob_uses BEGIN
    UPDATE blobs SET uses = uses - 1 WHERE id = old.blob;
END;

CREATE TABLE hives (
    hive_id TEXT PRIMARY KEY,
    incarnation INTEGER NOT NULL,
    record TEXT NOT NULL,
    expires_ms INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE keys (
    id TEXT PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    role TEXT NOT NULL,
    sha256 BLOB NOT NULL,
    created_ms INTEGER NOT NULL,
    last_used_ms INTEGER
) STRICT, WITHOUT ROWID;

-- Ids of jobs that are no longer kept, to tell them from ids that never were.
CREATE TABLE expired (
    job_id TEXT PRIMARY KEY,
    expired_ms INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX expired_order ON expired (expired_ms);
