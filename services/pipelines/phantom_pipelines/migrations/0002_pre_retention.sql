-- Ended executions are deleted after a time, oldest first.
CREATE INDEX executions_ended ON executions (ended_at) WHERE ended_at IS NOT NULL;
