-- Names are compared byte by byte (COLLATE "C"), so that every database orders them alike.

-- Counters. One row: every change of a token or key adds one to change_seq in its own
-- transaction. Its lock is held until the commit, so the order of commits is the order of numbers.
CREATE TABLE counters (
    one                SMALLINT PRIMARY KEY CHECK (one = 1),
    change_seq         BIGINT   NOT NULL,
    incarnation        BIGINT   NOT NULL,
    manifests_revision BIGINT   NOT NULL
);
INSERT INTO counters VALUES (1, 0, 1, 0);

CREATE TABLE tokens (
    number              BIGINT           GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    id                  TEXT COLLATE "C" NOT NULL UNIQUE,
    hash                BYTEA            NOT NULL UNIQUE CHECK (length(hash) = 32),
    name                TEXT             NOT NULL,
    owner               TEXT COLLATE "C" NOT NULL,
    scope               TEXT             NOT NULL,
    created             BIGINT           NOT NULL,
    expires             BIGINT,
    revoked             BIGINT,
    models              TEXT,                      -- JSON list of globs; NULL allows all
    output_caps         TEXT             NOT NULL, -- JSON list of [model, limit]
    requests_per_minute BIGINT,
    tokens_per_minute   BIGINT,
    concurrency         BIGINT,
    change_seq          BIGINT           NOT NULL
);
CREATE INDEX tokens_by_owner ON tokens (owner, number);
CREATE INDEX tokens_by_change ON tokens (change_seq);

-- A removed key keeps its row without sealed text, so that changes_since can tell of it.
CREATE TABLE keys (
    uid        TEXT COLLATE "C" PRIMARY KEY,
    object     TEXT             NOT NULL,
    origin     TEXT             NOT NULL,
    sealed     BYTEA,
    changed    BIGINT           NOT NULL,
    change_seq BIGINT           NOT NULL
);
CREATE INDEX keys_by_change ON keys (change_seq);

CREATE TABLE audit (
    number   BIGINT PRIMARY KEY,
    at       BIGINT NOT NULL,
    token    TEXT,
    owner    TEXT   NOT NULL,
    action   TEXT   NOT NULL,
    object   TEXT   NOT NULL,
    previous BYTEA  NOT NULL CHECK (length(previous) = 32),
    hash     BYTEA  NOT NULL CHECK (length(hash) = 32)
);

CREATE TABLE responses (
    id       TEXT COLLATE "C" PRIMARY KEY,
    upstream TEXT             NOT NULL,
    owner    TEXT             NOT NULL,
    created  BIGINT           NOT NULL
);
CREATE INDEX responses_by_created ON responses (created);

CREATE TABLE objects (
    object     TEXT COLLATE "C" PRIMARY KEY,       -- Kind/namespace/name
    uid        TEXT             NOT NULL UNIQUE,
    digest     BYTEA            NOT NULL CHECK (length(digest) = 32),
    created    BIGINT           NOT NULL,
    generation BIGINT           NOT NULL
);

CREATE TABLE statuses (
    object TEXT COLLATE "C" PRIMARY KEY,           -- Kind/namespace/name
    status TEXT             NOT NULL               -- a JSON object
);
