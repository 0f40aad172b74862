-- Requests to the language model and their answers, as the proxy passed them on.

CREATE TABLE IF NOT EXISTS api_requests (
    request_id UUID PRIMARY KEY DEFAULT gen_random_uuid(),
    domain VARCHAR(255) NOT NULL,
    account_id VARCHAR(100),
    timestamp TIMESTAMPTZ NOT NULL DEFAULT now(),
    method VARCHAR(10) NOT NULL,
    path VARCHAR(255) NOT NULL,
    headers JSONB,
    body JSONB,
    api_key_hash VARCHAR(64),
    model VARCHAR(100),
    request_type VARCHAR(50),
    response_status INTEGER,
    response_headers JSONB,
    response_body JSONB,
    response_streaming BOOLEAN NOT NULL DEFAULT false,
    input_tokens INTEGER NOT NULL DEFAULT 0,
    output_tokens INTEGER NOT NULL DEFAULT 0,
    total_tokens INTEGER NOT NULL DEFAULT 0,
    cache_creation_input_tokens INTEGER NOT NULL DEFAULT 0,
    cache_read_input_tokens INTEGER NOT NULL DEFAULT 0,
    usage_data JSONB,
    tool_call_count INTEGER NOT NULL DEFAULT 0,
    first_token_ms INTEGER,
    duration_ms INTEGER,
    error TEXT,
    created_at TIMESTAMPTZ NOT NULL DEFAULT now()
);

CREATE TABLE IF NOT EXISTS streaming_chunks (
    id BIGSERIAL PRIMARY KEY,
    request_id UUID NOT NULL REFERENCES api_requests (request_id) ON DELETE CASCADE,
    chunk_index INTEGER NOT NULL,
    timestamp TIMESTAMPTZ NOT NULL DEFAULT now(),
    data TEXT NOT NULL,
    token_count INTEGER NOT NULL DEFAULT 0,
    UNIQUE (request_id, chunk_index)
);

CREATE INDEX IF NOT EXISTS idx_requests_domain ON api_requests (domain);
CREATE INDEX IF NOT EXISTS idx_requests_timestamp ON api_requests (timestamp);
CREATE INDEX IF NOT EXISTS idx_requests_domain_timestamp ON api_requests (domain, timestamp);
CREATE INDEX IF NOT EXISTS idx_requests_model ON api_requests (model);
CREATE INDEX IF NOT EXISTS idx_requests_request_type ON api_requests (request_type);

-- The hours are those of UTC, whatever the time zone of the session that refreshes it.
CREATE MATERIALIZED VIEW IF NOT EXISTS hourly_stats AS
SELECT
    date_trunc('hour', timestamp, 'UTC') AS hour,
    domain,
    coalesce(model, '') AS model,
    count(*) AS request_count,
    count(*) FILTER (WHERE error IS NOT NULL OR response_status >= 400) AS error_count,
    sum(input_tokens) AS input_tokens,
    sum(output_tokens) AS output_tokens,
    sum(total_tokens) AS total_tokens,
    avg(first_token_ms) AS average_first_token_ms,
    avg(duration_ms) AS average_duration_ms
FROM api_requests
GROUP BY 1, 2, 3;

-- REFRESH MATERIALIZED VIEW CONCURRENTLY needs it.
CREATE UNIQUE INDEX IF NOT EXISTS idx_hourly_stats_hour ON hourly_stats (hour, domain, model);

COMMENT ON TABLE api_requests IS 'Each request to the language model, with the answer and what it took';
COMMENT ON COLUMN api_requests.domain IS 'The host name by which the client came';
COMMENT ON COLUMN api_requests.account_id IS 'The account whose credentials were used';
COMMENT ON COLUMN api_requests.body IS 'The request as the client sent it';
COMMENT ON COLUMN api_requests.response_body IS 'The answer; of a streamed one what its chunks add up to';
COMMENT ON TABLE streaming_chunks IS 'The chunks of streamed answers, in their order';
COMMENT ON MATERIALIZED VIEW hourly_stats IS 'Requests, tokens and times by hour, domain and model, for the dashboard';
