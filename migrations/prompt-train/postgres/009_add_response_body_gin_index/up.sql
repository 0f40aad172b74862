-- For response_body @> '...': with jsonb_path_ops, which is smaller and answers that operator alone.
CREATE INDEX IF NOT EXISTS idx_requests_response_body ON api_requests USING gin (response_body jsonb_path_ops);
