-- A train is a project or team. So far the domain stood for it, and still does where nobody says otherwise.

ALTER TABLE api_requests ADD COLUMN IF NOT EXISTS train_id VARCHAR(255);

UPDATE api_requests SET train_id = domain WHERE train_id IS NULL;

CREATE INDEX IF NOT EXISTS idx_requests_train_timestamp ON api_requests (train_id, timestamp);
CREATE INDEX IF NOT EXISTS idx_requests_train_conversation ON api_requests (train_id, conversation_id);

COMMENT ON COLUMN api_requests.train_id IS 'The train that the request belongs to';

ANALYZE api_requests;
