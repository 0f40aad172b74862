-- A conversation as it was at a moment.
CREATE INDEX IF NOT EXISTS idx_requests_conversation_time ON api_requests (conversation_id, timestamp);
CREATE INDEX IF NOT EXISTS idx_requests_subtask_sequence ON api_requests (conversation_id, branch_id, timestamp) WHERE is_subtask;
