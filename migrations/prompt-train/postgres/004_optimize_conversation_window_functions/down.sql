CREATE INDEX idx_requests_is_subtask ON api_requests (is_subtask) WHERE is_subtask;
CREATE INDEX idx_requests_conversation_timestamp ON api_requests (conversation_id, timestamp);
CREATE INDEX idx_requests_conversation_id ON api_requests (conversation_id);
DROP INDEX idx_requests_subtask_order;
DROP INDEX idx_requests_conversation_window;
