CREATE TABLE workspaces (
    id          text PRIMARY KEY,
    created_at  timestamptz NOT NULL DEFAULT now()
);
INSERT INTO workspaces (id) VALUES ('default');

-- Users and services. Principals stand above workspaces and name those they may act in.
CREATE TABLE principals (
    name         text PRIMARY KEY,
    kind         text NOT NULL CHECK (kind IN ('user', 'service')),
    permissions  text[] NOT NULL,
    workspaces   text[] NOT NULL,
    created_at   timestamptz NOT NULL,
    created_by   text NOT NULL,
    request_id   text NOT NULL DEFAULT '',
    version      bigint NOT NULL DEFAULT 1
);
CREATE UNIQUE INDEX principals_by_request ON principals (created_by, request_id) WHERE request_id <> '';

-- argon2id for people's passwords; SHA-256 for services' keys, which are 256 random bits.
CREATE TABLE credentials (
    principal    text PRIMARY KEY REFERENCES principals (name) ON DELETE CASCADE,
    secret_hash  text NOT NULL,
    changed_at   timestamptz NOT NULL
);

CREATE TABLE signing_keys (
    kid         text PRIMARY KEY,
    public_key  text NOT NULL,
    version     bigint NOT NULL DEFAULT 1,
    created_at  timestamptz NOT NULL
);
