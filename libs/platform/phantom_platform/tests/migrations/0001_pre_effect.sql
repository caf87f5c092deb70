-- What the tests' handlers do: each event leaves one row.
CREATE TABLE effect (event_id text NOT NULL, what text NOT NULL, at bigint GENERATED ALWAYS AS IDENTITY);
