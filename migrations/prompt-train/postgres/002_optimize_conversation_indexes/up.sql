CREATE INDEX IF NOT EXISTS idx_requests_conversation_timestamp ON api_requests (conversation_id, timestamp);

-- What the list of conversations shows, without a look at the requests themselves, which are large.
CREATE INDEX IF NOT EXISTS idx_requests_conversation_covering ON api_requests (conversation_id, timestamp DESC)
    INCLUDE (request_id, branch_id, message_count, model, total_tokens, response_status)
    WHERE conversation_id IS NOT NULL;

ANALYZE api_requests;
