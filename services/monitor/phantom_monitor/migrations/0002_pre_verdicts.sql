-- Up to when every window of an endpoint was announced, and when that was last said.
CREATE TABLE closings (
    workspace text NOT NULL,
    endpoint text NOT NULL,
    until_s bigint NOT NULL,
    said_at timestamptz NOT NULL,
    PRIMARY KEY (workspace, endpoint)
);

-- Rows that shadow revisions answered: compared with the answer of the same row, and labelled as it is.
CREATE TABLE shadow_rows (
    workspace text NOT NULL,
    endpoint text NOT NULL,
    prediction_id uuid NOT NULL,
    row_number integer NOT NULL,
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
    counted text,
    is_compared boolean NOT NULL,
    PRIMARY KEY (prediction_id, row_number, revision, workspace, endpoint)
);
CREATE INDEX shadow_rows_age ON shadow_rows (answered_us);
