-- What a model says of a conversation.

DO $$
BEGIN
    CREATE TYPE conversation_analysis_status AS ENUM ('pending', 'processing', 'completed', 'failed');
EXCEPTION WHEN duplicate_object THEN
    NULL;
END $$;

CREATE TABLE IF NOT EXISTS conversation_analyses (
    id BIGSERIAL PRIMARY KEY,
    conversation_id UUID NOT NULL,
    branch_id VARCHAR(255) NOT NULL DEFAULT 'main',
    status conversation_analysis_status NOT NULL DEFAULT 'pending',
    model_used VARCHAR(255),
    analysis_content TEXT,
    analysis_data JSONB,
    raw_response JSONB,
    error_message TEXT,
    retry_count INTEGER NOT NULL DEFAULT 0 CHECK (retry_count >= 0),
    prompt_tokens INTEGER CHECK (prompt_tokens >= 0),
    completion_tokens INTEGER CHECK (completion_tokens >= 0),
    processing_duration_ms INTEGER CHECK (processing_duration_ms >= 0),
    generated_at TIMESTAMPTZ,
    created_at TIMESTAMPTZ NOT NULL DEFAULT now(),
    updated_at TIMESTAMPTZ NOT NULL DEFAULT now(),
    UNIQUE (conversation_id, branch_id)
);

CREATE INDEX IF NOT EXISTS idx_analyses_pending ON conversation_analyses (created_at) WHERE status = 'pending';
CREATE INDEX IF NOT EXISTS idx_analyses_conversation ON conversation_analyses (conversation_id);

CREATE OR REPLACE FUNCTION set_updated_at() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.updated_at = clock_timestamp();
    RETURN NEW;
END $$;

DROP TRIGGER IF EXISTS set_updated_at ON conversation_analyses;
CREATE TRIGGER set_updated_at BEFORE UPDATE ON conversation_analyses FOR EACH ROW EXECUTE FUNCTION set_updated_at();

COMMENT ON TABLE conversation_analyses IS 'What a model says of each branch of a conversation';
COMMENT ON COLUMN conversation_analyses.retry_count IS 'How often it was tried again';
