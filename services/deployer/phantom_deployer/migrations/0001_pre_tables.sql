CREATE TABLE environments (
    workspace   text NOT NULL,
    name        text NOT NULL,
    type        text NOT NULL,
    created_at  timestamptz NOT NULL,
    created_by  text NOT NULL,
    PRIMARY KEY (workspace, name)
);

-- A deleted deployment keeps its row: numbers of revisions, events and routes go on if the name comes again.
CREATE TABLE deployments (
    workspace      text NOT NULL,
    deployment_id  text NOT NULL,
    environment    text NOT NULL,
    model_id       text NOT NULL,
    replicas       integer NOT NULL CHECK (replicas > 0),
    hash_field     text NOT NULL,
    salt           text NOT NULL CHECK (position(':' IN salt) = 0),
    stable         text NOT NULL,
    candidate      text NOT NULL DEFAULT '',
    allocations    jsonb NOT NULL DEFAULT '[]',
    pending_bp     integer NOT NULL DEFAULT 0,
    next_number    integer NOT NULL,
    aliases        text[] NOT NULL DEFAULT '{}',
    schema         jsonb,
    is_deleting    boolean NOT NULL DEFAULT false,
    is_deleted     boolean NOT NULL DEFAULT false,
    route_version  bigint NOT NULL DEFAULT 0,
    version        bigint NOT NULL DEFAULT 0,
    created_at     timestamptz NOT NULL,
    created_by     text NOT NULL,
    PRIMARY KEY (workspace, deployment_id)
);

-- Deployments and their aliases share one space of names.
CREATE TABLE names (
    workspace      text NOT NULL,
    name           text NOT NULL,
    deployment_id  text NOT NULL,
    PRIMARY KEY (workspace, name)
);

CREATE TABLE revisions (
    workspace      text NOT NULL,
    revision       text NOT NULL,
    deployment_id  text NOT NULL,
    number         integer NOT NULL,
    model          jsonb NOT NULL,
    phase          text NOT NULL,
    reason         text NOT NULL DEFAULT '',
    error_code     text NOT NULL DEFAULT '',
    was_ready      boolean NOT NULL DEFAULT false,
    PRIMARY KEY (workspace, revision)
);
CREATE INDEX revisions_of ON revisions (workspace, deployment_id) WHERE phase <> 'withdrawn';

CREATE TABLE replicas (
    replica_id     text PRIMARY KEY,
    workspace      text NOT NULL,
    deployment_id  text NOT NULL,
    revision       text NOT NULL,
    drain_key      text NOT NULL,
    phase          text NOT NULL,
    address        text NOT NULL DEFAULT '',
    pid            bigint NOT NULL DEFAULT 0,
    launch_id      text NOT NULL DEFAULT '',
    launched_at    timestamptz,
    ready_at       timestamptz,
    restarts       integer NOT NULL DEFAULT 0,
    failures       integer NOT NULL DEFAULT 0,
    next_start_at  timestamptz,
    is_leaving     boolean NOT NULL DEFAULT false,
    drain_sent_at  timestamptz,
    reason         text NOT NULL DEFAULT ''
);
CREATE INDEX replicas_of ON replicas (workspace, deployment_id);
CREATE INDEX replicas_of_revision ON replicas (workspace, revision);

-- Every version of every route; a null record is a tombstone.
CREATE TABLE routes (
    workspace   text NOT NULL,
    endpoint    text NOT NULL,
    version     bigint NOT NULL,
    record      jsonb,
    created_at  timestamptz NOT NULL,
    PRIMARY KEY (workspace, endpoint, version)
);

-- The replicas that the newest version of a route names, and for those it no longer names the version that dropped
-- them: none of them is told to stop before that version is acknowledged.
CREATE TABLE routed (
    workspace   text NOT NULL,
    endpoint    text NOT NULL,
    replica_id  text NOT NULL,
    -- Null while the route names it.
    left_at     bigint,
    PRIMARY KEY (replica_id, workspace, endpoint)
);
CREATE INDEX routed_by ON routed (workspace, endpoint);

CREATE TABLE requests (
    workspace    text NOT NULL,
    principal    text NOT NULL,
    request_id   text NOT NULL,
    fingerprint  text NOT NULL,
    answer       jsonb,
    created_at   timestamptz NOT NULL,
    PRIMARY KEY (workspace, principal, request_id)
);
CREATE INDEX requests_by_age ON requests (created_at);

-- Gateway processes from join to leave, and how far route-acks has been read.
CREATE TABLE gateways (
    boot_id    text PRIMARY KEY,
    last_seen  timestamptz NOT NULL
);
CREATE TABLE ack_offsets (
    partition    integer PRIMARY KEY,
    next_offset  bigint NOT NULL
);
