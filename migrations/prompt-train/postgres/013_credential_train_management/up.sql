-- Trains, the accounts they may use, and the keys by which clients come, instead of files.

CREATE TABLE IF NOT EXISTS trains (
    id UUID PRIMARY KEY DEFAULT gen_random_uuid(),
    train_id VARCHAR(255) NOT NULL UNIQUE,
    name VARCHAR(255) NOT NULL,
    description TEXT,
    is_active BOOLEAN NOT NULL DEFAULT true,
    slack_config JSONB,
    created_at TIMESTAMPTZ NOT NULL DEFAULT now(),
    updated_at TIMESTAMPTZ NOT NULL DEFAULT now()
);

CREATE TABLE IF NOT EXISTS anthropic_credentials (
    id UUID PRIMARY KEY DEFAULT gen_random_uuid(),
    account_id VARCHAR(100) NOT NULL UNIQUE,
    account_name VARCHAR(255) NOT NULL,
    oauth_access_token TEXT NOT NULL,
    oauth_refresh_token TEXT NOT NULL,
    oauth_expires_at TIMESTAMPTZ NOT NULL,
    oauth_scopes TEXT[] NOT NULL DEFAULT '{}',
    oauth_is_max BOOLEAN NOT NULL DEFAULT false,
    is_active BOOLEAN NOT NULL DEFAULT true,
    last_refresh_at TIMESTAMPTZ,
    created_at TIMESTAMPTZ NOT NULL DEFAULT now(),
    updated_at TIMESTAMPTZ NOT NULL DEFAULT now()
);

CREATE TABLE IF NOT EXISTS train_accounts (
    train_id UUID NOT NULL REFERENCES trains (id) ON DELETE CASCADE,
    credential_id UUID NOT NULL REFERENCES anthropic_credentials (id) ON DELETE CASCADE,
    priority INTEGER NOT NULL DEFAULT 0 CHECK (priority >= 0),
    is_enabled BOOLEAN NOT NULL DEFAULT true,
    created_at TIMESTAMPTZ NOT NULL DEFAULT now(),
    PRIMARY KEY (train_id, credential_id)
);

CREATE TABLE IF NOT EXISTS train_api_keys (
    id UUID PRIMARY KEY DEFAULT gen_random_uuid(),
    train_id UUID NOT NULL REFERENCES trains (id) ON DELETE CASCADE,
    key_hash CHAR(64) NOT NULL UNIQUE,
    key_prefix VARCHAR(20) NOT NULL,
    name VARCHAR(255),
    created_by VARCHAR(255),
    created_at TIMESTAMPTZ NOT NULL DEFAULT now(),
    last_used_at TIMESTAMPTZ,
    revoked_at TIMESTAMPTZ
);

CREATE INDEX IF NOT EXISTS idx_credentials_expiry ON anthropic_credentials (oauth_expires_at) WHERE is_active;
CREATE INDEX IF NOT EXISTS idx_train_accounts_credential ON train_accounts (credential_id);
CREATE INDEX IF NOT EXISTS idx_train_accounts_order ON train_accounts (train_id, priority) WHERE is_enabled;
CREATE INDEX IF NOT EXISTS idx_train_api_keys_train ON train_api_keys (train_id);

DROP TRIGGER IF EXISTS set_updated_at ON trains;
CREATE TRIGGER set_updated_at BEFORE UPDATE ON trains FOR EACH ROW EXECUTE FUNCTION set_updated_at();
DROP TRIGGER IF EXISTS set_updated_at ON anthropic_credentials;
CREATE TRIGGER set_updated_at BEFORE UPDATE ON anthropic_credentials FOR EACH ROW EXECUTE FUNCTION set_updated_at();

COMMENT ON TABLE trains IS 'Projects and teams that share accounts';
COMMENT ON COLUMN train_accounts.priority IS 'Which account is tried first: the lowest';
COMMENT ON COLUMN train_api_keys.key_hash IS 'SHA-256 of the key; the key itself is kept nowhere';

-- A train for each that requests name.
INSERT INTO trains (train_id, name)
SELECT DISTINCT train_id, train_id FROM api_requests WHERE train_id IS NOT NULL
ON CONFLICT (train_id) DO NOTHING;

ANALYZE trains;
