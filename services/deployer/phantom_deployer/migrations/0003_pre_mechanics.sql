-- Replicas that a revision is to have while it is rolled in or out; null: as many as the deployment says.
ALTER TABLE revisions ADD COLUMN target integer CHECK (target >= 0);
-- {revision, salt, bp}: which calls are copied to the candidate.
ALTER TABLE deployments ADD COLUMN shadow jsonb;
