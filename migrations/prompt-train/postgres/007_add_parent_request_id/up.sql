ALTER TABLE api_requests ADD COLUMN IF NOT EXISTS parent_request_id UUID REFERENCES api_requests (request_id) ON DELETE SET NULL;

CREATE INDEX IF NOT EXISTS idx_requests_parent_request ON api_requests (parent_request_id) WHERE parent_request_id IS NOT NULL;

COMMENT ON COLUMN api_requests.parent_request_id IS 'The request that this one goes on from';

-- Of those with the right messages one of the same conversation, and of these the last.
UPDATE api_requests child
SET parent_request_id = found.request_id
FROM (
    SELECT DISTINCT ON (child.request_id) child.request_id AS child_id, parent.request_id
    FROM api_requests child
    JOIN api_requests parent ON parent.domain = child.domain
        AND parent.current_message_hash = child.parent_message_hash
        AND (parent.timestamp, parent.request_id) < (child.timestamp, child.request_id)
    WHERE child.parent_request_id IS NULL
    ORDER BY child.request_id, parent.conversation_id IS NOT DISTINCT FROM child.conversation_id DESC,
        parent.timestamp DESC, parent.request_id DESC
) found
WHERE child.request_id = found.child_id;

ANALYZE api_requests;
