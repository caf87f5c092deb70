-- Every key begins with the workspace. `place` orders lists: newest first, and page tokens point at it.

CREATE TABLE pipelines (
    workspace   text        NOT NULL,
    pipeline_id text        NOT NULL,
    name        text        NOT NULL,
    description text        NOT NULL,
    -- [{name, type, config}], in order.
    stages      jsonb       NOT NULL,
    version     bigint      NOT NULL,
    created_at  timestamptz NOT NULL,
    created_by  text        NOT NULL,
    place       bigint      GENERATED ALWAYS AS IDENTITY,
    PRIMARY KEY (workspace, pipeline_id),
    UNIQUE (workspace, name)
);
CREATE INDEX pipelines_place ON pipelines (workspace, place DESC);

CREATE TABLE executions (
    workspace     text        NOT NULL,
    execution_id  text        NOT NULL,
    pipeline_id   text        NOT NULL,
    pipeline_name text        NOT NULL,
    -- The version as it was when the execution began.
    model         jsonb       NOT NULL,
    trigger       text        NOT NULL,
    phase         text        NOT NULL,
    reason_code   text        NOT NULL,
    reason        text        NOT NULL,
    -- When the approval that it waits for expires.
    waits_until   timestamptz,
    created_at    timestamptz NOT NULL,
    created_by    text        NOT NULL,
    ended_at      timestamptz,
    -- Events published under this execution's key; the next one's aggregate version is one more.
    events        bigint      NOT NULL DEFAULT 0,
    place         bigint      GENERATED ALWAYS AS IDENTITY,
    PRIMARY KEY (workspace, execution_id),
    FOREIGN KEY (workspace, pipeline_id) REFERENCES pipelines
);
CREATE INDEX executions_place ON executions (workspace, place DESC);
CREATE INDEX executions_of ON executions (workspace, pipeline_id, place DESC);
CREATE INDEX executions_live ON executions (place) WHERE ended_at IS NULL;

CREATE TABLE stages (
    workspace    text        NOT NULL,
    execution_id text        NOT NULL,
    number       int         NOT NULL,
    name         text        NOT NULL,
    type         text        NOT NULL,
    config       jsonb       NOT NULL,
    phase        text        NOT NULL,
    reason_code  text        NOT NULL,
    reason       text        NOT NULL,
    started_at   timestamptz,
    ended_at     timestamptz,
    result       jsonb,
    attempts     int         NOT NULL,
    progress     double precision NOT NULL,
    approval     jsonb,
    PRIMARY KEY (workspace, execution_id, number),
    UNIQUE (workspace, execution_id, name),
    FOREIGN KEY (workspace, execution_id) REFERENCES executions
);

-- Checks of a stage that are finished: they are never run again.
CREATE TABLE checks (
    workspace    text        NOT NULL,
    execution_id text        NOT NULL,
    stage        text        NOT NULL,
    name         text        NOT NULL,
    answer       jsonb       NOT NULL,
    finished_at  timestamptz NOT NULL,
    PRIMARY KEY (workspace, execution_id, stage, name),
    FOREIGN KEY (workspace, execution_id, stage) REFERENCES stages (workspace, execution_id, name)
);

CREATE TABLE log_lines (
    id           bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    workspace    text        NOT NULL,
    execution_id text        NOT NULL,
    stage        text        NOT NULL,
    at           timestamptz NOT NULL,
    level        text        NOT NULL,
    text         text        NOT NULL,
    -- Lines with the same one are written once.
    once         text,
    UNIQUE (workspace, execution_id, stage, once),
    FOREIGN KEY (workspace, execution_id, stage) REFERENCES stages (workspace, execution_id, name)
);
CREATE INDEX log_lines_of ON log_lines (workspace, execution_id, id);

CREATE TABLE test_suites (
    workspace  text        NOT NULL,
    name       text        NOT NULL,
    content    jsonb       NOT NULL,
    created_at timestamptz NOT NULL,
    created_by text        NOT NULL,
    place      bigint      GENERATED ALWAYS AS IDENTITY,
    PRIMARY KEY (workspace, name)
);
CREATE INDEX test_suites_place ON test_suites (workspace, place DESC);

-- What was answered to a request id, to be answered again.
CREATE TABLE answers (
    workspace   text        NOT NULL,
    principal   text        NOT NULL,
    request_id  text        NOT NULL,
    fingerprint text        NOT NULL,
    -- NULL only inside the transaction that is finding the answer.
    answer      jsonb,
    created_at  timestamptz NOT NULL,
    PRIMARY KEY (workspace, principal, request_id)
);
CREATE INDEX answers_created_at ON answers (created_at);
