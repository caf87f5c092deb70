-- Rollouts. `body` is the whole aggregate; the columns are what is looked for.
CREATE TABLE rollouts (
    rollout_id     text PRIMARY KEY,
    workspace      text NOT NULL,
    deployment_id  text NOT NULL,
    state          text NOT NULL,
    is_live        boolean NOT NULL,
    created_at     timestamptz NOT NULL,
    body           jsonb NOT NULL
);
-- Never two at once on a deployment.
CREATE UNIQUE INDEX live_rollouts ON rollouts (workspace, deployment_id) WHERE is_live;
CREATE INDEX rollouts_of ON rollouts (workspace, deployment_id, rollout_id);
CREATE INDEX rollouts_by_id ON rollouts (workspace, rollout_id);

CREATE TABLE rollout_transitions (
    rollout_id     text NOT NULL,
    number         integer NOT NULL,
    from_state     text NOT NULL,
    to_state       text NOT NULL,
    reason_code    text NOT NULL,
    reason         text NOT NULL,
    actor          text NOT NULL,
    at             timestamptz NOT NULL,
    step           integer NOT NULL,
    bp             integer NOT NULL,
    route_version  bigint NOT NULL,
    criterion      text NOT NULL DEFAULT '',
    PRIMARY KEY (rollout_id, number)
);

-- A judgement each time that its verdict, or what fired, changed.
CREATE TABLE rollout_verdicts (
    rollout_id  text NOT NULL,
    judged_at   timestamptz NOT NULL,
    verdict     text NOT NULL,
    fired       text NOT NULL,
    body        jsonb NOT NULL,
    PRIMARY KEY (rollout_id, judged_at)
);

-- Windows of the monitor, decisions `rollout` and `shadow` only: the newest revision of each. `seen` grows with every
-- change, so that a reader knows whether what it merged still holds.
CREATE SEQUENCE evidence_seen;
CREATE TABLE evidence_windows (
    workspace      text NOT NULL,
    endpoint       text NOT NULL,
    start_at       timestamptz NOT NULL,
    route_version  bigint NOT NULL,
    revision       text NOT NULL,
    arm            text NOT NULL,
    decision       text NOT NULL,
    segment        text NOT NULL,
    revision_no    bigint NOT NULL,
    is_complete    boolean NOT NULL,
    requests       bigint NOT NULL,
    failures       bigint NOT NULL,
    sums           bytea NOT NULL,
    agreement      jsonb,
    seen           bigint NOT NULL DEFAULT nextval('evidence_seen'),
    PRIMARY KEY (workspace, endpoint, start_at, route_version, revision, arm, decision, segment)
);
CREATE INDEX evidence_by_age ON evidence_windows (start_at);
CREATE INDEX evidence_by_change ON evidence_windows (workspace, endpoint, seen);

CREATE TABLE evidence_closed (
    workspace  text NOT NULL,
    endpoint   text NOT NULL,
    until      timestamptz NOT NULL,
    heard_at   timestamptz NOT NULL,
    gateways   integer NOT NULL,
    PRIMARY KEY (workspace, endpoint)
);
