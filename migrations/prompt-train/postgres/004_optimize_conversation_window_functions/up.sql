-- For row_number() and first_value() over a conversation, newest first. request_id itself is the primary key: joins have its index.
CREATE INDEX IF NOT EXISTS idx_requests_conversation_window ON api_requests (conversation_id, timestamp DESC, request_id DESC);
CREATE INDEX IF NOT EXISTS idx_requests_subtask_order ON api_requests (is_subtask, timestamp, request_id);

-- What the new ones begin with.
DROP INDEX IF EXISTS idx_requests_conversation_id;
DROP INDEX IF EXISTS idx_requests_conversation_timestamp;
DROP INDEX IF EXISTS idx_requests_is_subtask;

ANALYZE api_requests;
