-- Claims are numbered to fence off older ones; these count those that came to something.
ALTER TABLE jobs ADD COLUMN tries INTEGER NOT NULL DEFAULT 0;   -- attempts that a worker began, or died over
ALTER TABLE jobs ADD COLUMN tried INTEGER NOT NULL DEFAULT 0;   -- the last claim among them
UPDATE jobs SET tries = attempt, tried = attempt;

-- Small blobs, so that a picture is synced together with the job that refers to it; larger ones are files.
CREATE TABLE blob_bytes (blob TEXT PRIMARY KEY, bytes BLOB NOT NULL) STRICT;

-- Whose token a hive's id belongs to.
CREATE TABLE hive_owners (hive_id TEXT PRIMARY KEY, key TEXT NOT NULL) STRICT, WITHOUT ROWID;
CREATE INDEX hive_owners_key ON hive_owners (key);
