-- Counters. One row: every change of a token or key adds one to change_seq in its own
-- transaction, so the order of commits is the order of numbers.
CREATE TABLE counters (
    one                INTEGER PRIMARY KEY CHECK (one = 1),
    change_seq         INTEGER NOT NULL,
    incarnation        INTEGER NOT NULL,
    manifests_revision INTEGER NOT NULL
) STRICT;
INSERT INTO counters VALUES (1, 0, 1, 0);

CREATE TABLE tokens (
    number              INTEGER PRIMARY KEY AUTOINCREMENT,
    id                  TEXT    NOT NULL UNIQUE,
    hash                BLOB    NOT NULL UNIQUE CHECK (length(hash) = 32),
    name                TEXT    NOT NULL,
    owner               TEXT    NOT NULL,
    scope               TEXT    NOT NULL,
    created             INTEGER NOT NULL,
    expires             INTEGER,
    revoked             INTEGER,
    models              TEXT,             -- JSON list of globs; NULL allows all
    output_caps         TEXT    NOT NULL, -- JSON list of [model, limit]
    requests_per_minute INTEGER,
    tokens_per_minute   INTEGER,
    concurrency         INTEGER,
    change_seq          INTEGER NOT NULL
) STRICT;
CREATE INDEX tokens_by_owner ON tokens (owner, number);
CREATE INDEX tokens_by_change ON tokens (change_seq);

-- A removed key keeps its row without sealed text, so that changes_since can tell of it.
CREATE TABLE keys (
    uid        TEXT    PRIMARY KEY,
    object     TEXT    NOT NULL,
    origin     TEXT    NOT NULL,
    sealed     BLOB,
    changed    INTEGER NOT NULL,
    change_seq INTEGER NOT NULL
) STRICT;
CREATE INDEX keys_by_change ON keys (change_seq);

CREATE TABLE audit (
    number   INTEGER PRIMARY KEY,
    at       INTEGER NOT NULL,
    token    TEXT,
    owner    TEXT    NOT NULL,
    action   TEXT    NOT NULL,
    object   TEXT    NOT NULL,
    previous BLOB    NOT NULL CHECK (length(previous) = 32),
    hash     BLOB    NOT NULL CHECK (length(hash) = 32)
) STRICT;

CREATE TABLE responses (
    id       TEXT    PRIMARY KEY,
    upstream TEXT    NOT NULL,
    owner    TEXT    NOT NULL,
    created  INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX responses_by_created ON responses (created);

CREATE TABLE objects (
    object     TEXT    PRIMARY KEY,       -- Kind/namespace/name
    uid        TEXT    NOT NULL UNIQUE,
    digest     BLOB    NOT NULL CHECK (length(digest) = 32),
    created    INTEGER NOT NULL,
    generation INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE statuses (
    object TEXT PRIMARY KEY,              -- Kind/namespace/name
    status TEXT NOT NULL                  -- a JSON object
) STRICT, WITHOUT ROWID;
