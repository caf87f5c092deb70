-- Every key begins with the workspace. `place` orders lists: newest first, and page tokens point at it.

CREATE TABLE models (
    workspace   text        NOT NULL,
    model_id    text        NOT NULL,
    description text        NOT NULL,
    tags        text[]      NOT NULL,
    created_at  timestamptz NOT NULL,
    created_by  text        NOT NULL,
    -- Events published under this model's key; the next one's aggregate version is one more.
    events      bigint      NOT NULL DEFAULT 0,
    place       bigint      GENERATED ALWAYS AS IDENTITY,
    PRIMARY KEY (workspace, model_id)
);
CREATE INDEX models_place ON models (workspace, place DESC);
CREATE INDEX models_tags ON models USING gin (tags);

CREATE TABLE artifacts (
    workspace  text        NOT NULL,
    digest     text        NOT NULL,
    size_bytes bigint      NOT NULL,
    created_at timestamptz NOT NULL,
    created_by text        NOT NULL,
    PRIMARY KEY (workspace, digest)
);

CREATE TABLE versions (
    workspace              text        NOT NULL,
    model_id               text        NOT NULL,
    version                text        NOT NULL,
    digest                 text        NOT NULL,
    file_name              text        NOT NULL,
    framework              text        NOT NULL,
    stage                  text        NOT NULL
        CHECK (stage IN ('development', 'staging', 'production', 'archived')),
    -- When it came to its stage, by a number that only grows: the newest of a stage has the greatest.
    stage_place            bigint      NOT NULL,
    description            text        NOT NULL,
    metadata               jsonb       NOT NULL,
    claimed_metrics        jsonb       NOT NULL,
    -- As given: text, so that it comes back letter by letter.
    model_schema           text        NOT NULL,
    changes                text[]      NOT NULL,
    performance_comparison jsonb       NOT NULL,
    created_at             timestamptz NOT NULL,
    created_by             text        NOT NULL,
    place                  bigint      GENERATED ALWAYS AS IDENTITY,
    PRIMARY KEY (workspace, model_id, version),
    FOREIGN KEY (workspace, model_id) REFERENCES models,
    FOREIGN KEY (workspace, digest) REFERENCES artifacts
);
CREATE INDEX versions_place ON versions (workspace, model_id, place DESC);
CREATE INDEX versions_stage ON versions (workspace, stage, model_id, stage_place DESC);
CREATE SEQUENCE stage_places;

CREATE TABLE promotions (
    workspace         text        NOT NULL,
    promotion_id      text        NOT NULL,
    model_id          text        NOT NULL,
    version           text        NOT NULL,
    from_stage        text        NOT NULL,
    to_stage          text        NOT NULL,
    state             text        NOT NULL
        CHECK (state IN ('pending', 'granted', 'rejected', 'expired', 'executed')),
    approval_required boolean     NOT NULL,
    reviewer          text        NOT NULL,
    requested_by      text        NOT NULL,
    requested_at      timestamptz NOT NULL,
    expires_at        timestamptz,
    decided_by        text        NOT NULL,
    decided_at        timestamptz,
    comment           text        NOT NULL,
    digest            text        NOT NULL,
    place             bigint      GENERATED ALWAYS AS IDENTITY,
    PRIMARY KEY (workspace, promotion_id),
    FOREIGN KEY (workspace, model_id, version) REFERENCES versions
);
CREATE UNIQUE INDEX promotions_one_pending ON promotions (workspace, model_id, version) WHERE state = 'pending';
CREATE INDEX promotions_place ON promotions (workspace, place DESC);
CREATE INDEX promotions_due ON promotions (expires_at) WHERE state = 'pending';

CREATE TABLE datasets (
    workspace  text        NOT NULL,
    name       text        NOT NULL,
    version    text        NOT NULL,
    digest     text        NOT NULL,
    uri        text        NOT NULL,
    rows       bigint      NOT NULL,
    metadata   jsonb       NOT NULL,
    created_at timestamptz NOT NULL,
    created_by text        NOT NULL,
    place      bigint      GENERATED ALWAYS AS IDENTITY,
    PRIMARY KEY (workspace, name, version)
);
CREATE INDEX datasets_place ON datasets (workspace, place DESC);

CREATE TABLE lineages (
    workspace  text        NOT NULL,
    lineage_id text        NOT NULL,
    model_id   text        NOT NULL,
    version    text        NOT NULL,
    content    jsonb       NOT NULL,
    created_at timestamptz NOT NULL,
    created_by text        NOT NULL,
    PRIMARY KEY (workspace, model_id, version),
    UNIQUE (workspace, lineage_id),
    FOREIGN KEY (workspace, model_id, version) REFERENCES versions
);

-- `made` was made from `source`: the graph that QueryLineage walks, without cycles.
CREATE TABLE lineage_edges (
    workspace      text NOT NULL,
    made_kind      text NOT NULL,
    made_name      text NOT NULL,
    made_version   text NOT NULL,
    source_kind    text NOT NULL,
    source_name    text NOT NULL,
    source_version text NOT NULL,
    PRIMARY KEY (workspace, made_kind, made_name, made_version, source_kind, source_name, source_version)
);
CREATE INDEX lineage_edges_source ON lineage_edges (workspace, source_kind, source_name, source_version);

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
