-- Times are seconds since 1970.

CREATE TABLE users (
    id TEXT PRIMARY KEY,
    tenant_id TEXT NOT NULL,
    email TEXT NOT NULL,
    password_hash TEXT,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL
);

CREATE INDEX idx_users_tenant ON users (tenant_id);
CREATE INDEX idx_users_email ON users (email);

-- Each row's hash covers the hash before it: see [[check]] in set.toml. AUTOINCREMENT, so that no number is given twice.
CREATE TABLE audit_chain (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    tenant_id TEXT NOT NULL,
    event_type TEXT NOT NULL,
    payload TEXT NOT NULL,
    previous_hash TEXT NOT NULL,
    hash TEXT NOT NULL,
    created_at INTEGER NOT NULL
);

CREATE INDEX idx_audit_tenant ON audit_chain (tenant_id);
CREATE INDEX idx_audit_type ON audit_chain (event_type);
