-- Events that were committed and not yet acknowledged by Kafka. `headers` is JSON: [[name, latin-1 text], ...].
CREATE TABLE outbox (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    topic text NOT NULL,
    key bytea,
    value bytea,
    headers bytea NOT NULL,
    at timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- Ids are drawn here, under locks on (topic, key) that are held until COMMIT: order per key is commit order.
-- Locks come sorted, so that two transactions cannot wait for each other.
CREATE FUNCTION outbox_append(
    locks bigint[], topics text[], keys bytea[], contents bytea[], heads bytea[], channel text
) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    each bigint;
BEGIN
    FOREACH each IN ARRAY locks LOOP
        PERFORM pg_advisory_xact_lock(each);
    END LOOP;
    INSERT INTO outbox (topic, key, value, headers)
        SELECT * FROM unnest(topics, keys, contents, heads);
    IF channel IS NOT NULL THEN
        PERFORM pg_notify(channel, '');
    END IF;
END
$$;

-- What each consumer has applied, or given up on. Kept 14 days, longer than any topic.
CREATE TABLE inbox (
    consumer text NOT NULL,
    source text NOT NULL,
    event_id text NOT NULL,
    state text NOT NULL DEFAULT 'applied' CHECK (state IN ('applied', 'dead')),
    at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (consumer, source, event_id)
);
CREATE INDEX inbox_at ON inbox USING brin (at);

CREATE TABLE dead_letter (
    id uuid PRIMARY KEY,
    consumer text NOT NULL,
    source text NOT NULL,
    event_id text NOT NULL,
    event_type text NOT NULL,
    topic text NOT NULL,
    partition integer NOT NULL,
    "offset" bigint NOT NULL,
    timestamp_ms bigint NOT NULL,
    key bytea,
    value bytea,
    headers bytea NOT NULL,
    reason text NOT NULL,
    died_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    FOREIGN KEY (consumer, source, event_id) REFERENCES inbox ON DELETE CASCADE
);
CREATE INDEX dead_letter_inbox ON dead_letter (consumer, source, event_id);
