-- Batches whose effect is here, per gateway process and partition, as ranges of their numbers (kept 14 days).
CREATE TABLE applied_batches (
    boot_id text NOT NULL,
    partition integer NOT NULL,
    sequences int8multirange NOT NULL,
    updated_at timestamptz NOT NULL,
    PRIMARY KEY (boot_id, partition)
);

-- Gateway processes: joined and left by route-acks, heard and promising by their batches.
CREATE TABLE gateways (
    boot_id text PRIMARY KEY,
    joined_at timestamptz,
    left_at timestamptz,
    seen_at timestamptz NOT NULL
);

CREATE TABLE watermarks (
    workspace text NOT NULL,
    endpoint text NOT NULL,
    boot_id text NOT NULL,
    watermark_us bigint NOT NULL,
    heard_at timestamptz NOT NULL,
    PRIMARY KEY (workspace, endpoint, boot_id)
);

-- The join: one row of an answered call, and the label that is counted for it.
CREATE TABLE predictions (
    workspace text NOT NULL,
    endpoint text NOT NULL,
    prediction_id uuid NOT NULL,
    row_number integer NOT NULL,
    request_id text NOT NULL,
    revision text NOT NULL,
    arm text NOT NULL,
    decision text NOT NULL,
    route_version bigint NOT NULL,
    unit_group smallint NOT NULL,
    received_us bigint NOT NULL,
    answered_us bigint NOT NULL,
    label text,
    class_labels text[] NOT NULL,
    probabilities real[],
    score real,
    value double precision,
    matures_us bigint NOT NULL,
    counted text,
    -- What tells rows apart comes first: before statistics are gathered, Postgres would else search by endpoint alone.
    PRIMARY KEY (prediction_id, row_number, workspace, endpoint)
);
CREATE INDEX predictions_request ON predictions (request_id, row_number, workspace, endpoint) WHERE request_id <> '';
CREATE INDEX predictions_age ON predictions (answered_us);

-- The newest outcome of each id, by event time, then partition and offset.
CREATE TABLE outcomes (
    workspace text NOT NULL,
    endpoint text NOT NULL,
    kind text NOT NULL CHECK (kind IN ('prediction', 'request')),
    id text NOT NULL,
    row_number integer NOT NULL,
    event_us bigint NOT NULL,
    partition integer NOT NULL,
    kafka_offset bigint NOT NULL,
    label jsonb,
    fields jsonb NOT NULL,
    arrived_at timestamptz NOT NULL,
    state text NOT NULL CHECK (state IN ('waiting', 'joined', 'unmatched')),
    PRIMARY KEY (id, row_number, kind, workspace, endpoint)
);
CREATE INDEX outcomes_waiting ON outcomes (arrived_at) WHERE state = 'waiting';

CREATE TABLE windows (
    workspace text NOT NULL,
    endpoint text NOT NULL,
    revision text NOT NULL,
    arm text NOT NULL,
    decision text NOT NULL,
    route_version bigint NOT NULL,
    segment text NOT NULL,
    start_s bigint NOT NULL,
    counts text NOT NULL,
    is_complete boolean NOT NULL DEFAULT false,
    revision_no integer NOT NULL DEFAULT 0,
    is_changed boolean NOT NULL DEFAULT true,
    updated_at timestamptz NOT NULL,
    PRIMARY KEY (workspace, endpoint, start_s, revision, arm, decision, route_version, segment)
);
CREATE INDEX windows_updated ON windows (updated_at);
CREATE INDEX windows_open ON windows (start_s) WHERE is_changed OR NOT is_complete;

-- Sums of all windows that ever were: what Prometheus counters are set from.
CREATE TABLE totals (
    workspace text NOT NULL,
    endpoint text NOT NULL,
    revision text NOT NULL,
    arm text NOT NULL,
    decision text NOT NULL,
    requests bigint NOT NULL DEFAULT 0,
    answered bigint NOT NULL DEFAULT 0,
    attempts bigint NOT NULL DEFAULT 0,
    failed_attempts bigint NOT NULL DEFAULT 0,
    rejected_inputs bigint NOT NULL DEFAULT 0,
    fallbacks bigint NOT NULL DEFAULT 0,
    rows bigint NOT NULL DEFAULT 0,
    classes jsonb NOT NULL DEFAULT '{}',
    updated_at timestamptz NOT NULL,
    PRIMARY KEY (workspace, endpoint, revision, arm, decision)
);

-- Counts of an endpoint that are no window's: batches that came again.
CREATE TABLE endpoint_counts (
    workspace text NOT NULL,
    endpoint text NOT NULL,
    repeated_batches bigint NOT NULL DEFAULT 0,
    PRIMARY KEY (workspace, endpoint)
);

-- Schemas of revisions, kept after their routes: an outcome may come after its revision has gone.
CREATE TABLE revision_schemas (
    workspace text NOT NULL,
    revision text NOT NULL,
    model_schema jsonb NOT NULL,
    PRIMARY KEY (workspace, revision)
);
