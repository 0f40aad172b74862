-- Which requests continue which: each one's messages are hashed, and so are those without the last exchange, which are the
-- messages of the request before it.

ALTER TABLE api_requests ADD COLUMN IF NOT EXISTS current_message_hash CHAR(64);
ALTER TABLE api_requests ADD COLUMN IF NOT EXISTS parent_message_hash CHAR(64);
ALTER TABLE api_requests ADD COLUMN IF NOT EXISTS conversation_id UUID;
ALTER TABLE api_requests ADD COLUMN IF NOT EXISTS branch_id VARCHAR(255) NOT NULL DEFAULT 'main';
ALTER TABLE api_requests ADD COLUMN IF NOT EXISTS message_count INTEGER NOT NULL DEFAULT 0;

CREATE INDEX IF NOT EXISTS idx_requests_conversation_id ON api_requests (conversation_id);
CREATE INDEX IF NOT EXISTS idx_requests_current_hash ON api_requests (current_message_hash);
CREATE INDEX IF NOT EXISTS idx_requests_parent_hash ON api_requests (parent_message_hash);
CREATE INDEX IF NOT EXISTS idx_requests_branch ON api_requests (conversation_id, branch_id);

COMMENT ON COLUMN api_requests.current_message_hash IS 'SHA-256 of the messages of this request';
COMMENT ON COLUMN api_requests.parent_message_hash IS 'SHA-256 of the messages without the last exchange; none for a first request';
COMMENT ON COLUMN api_requests.conversation_id IS 'What groups the requests of one conversation: the id of its first request';
COMMENT ON COLUMN api_requests.branch_id IS 'main, or the branch that began where one request was continued twice';
COMMENT ON COLUMN api_requests.message_count IS 'How many messages the conversation has up to here';

-- What is said: a string, or the texts of a content's blocks, one a line. Whether something is cached is no part of it.
UPDATE api_requests
SET message_count = said.total,
    current_message_hash = encode(sha256(convert_to(concat(system.text, chr(29), said.whole), 'UTF8')), 'hex'),
    parent_message_hash = CASE WHEN said.total > 2 THEN encode(sha256(convert_to(concat(system.text, chr(29), said.earlier), 'UTF8')), 'hex') END
FROM (
    SELECT request_id, max(position) AS total,
        string_agg(line, chr(30) ORDER BY position) AS whole,
        string_agg(line, chr(30) ORDER BY position) FILTER (WHERE position <= how_many - 2) AS earlier
    FROM (
        SELECT request_id, position, jsonb_array_length(body -> 'messages') AS how_many,
            concat(message ->> 'role', ': ', CASE jsonb_typeof(message -> 'content')
                WHEN 'null' THEN NULL
                WHEN 'string' THEN message -> 'content' #>> '{}'
                WHEN 'array' THEN (
                    SELECT string_agg(CASE
                        WHEN jsonb_typeof(block) <> 'object' THEN block #>> '{}'
                        WHEN block ->> 'type' = 'text' THEN block ->> 'text'
                        ELSE (block - 'cache_control')::text END, E'\n' ORDER BY number)
                    FROM jsonb_array_elements(message -> 'content') WITH ORDINALITY AS blocks (block, number))
                ELSE (message -> 'content')::text END) AS line
        FROM api_requests, jsonb_array_elements(CASE jsonb_typeof(body -> 'messages') WHEN 'array' THEN body -> 'messages' END)
            WITH ORDINALITY AS listed (message, position)
        WHERE current_message_hash IS NULL
    ) AS lines
    GROUP BY request_id
) AS said
CROSS JOIN LATERAL (
    SELECT CASE jsonb_typeof(own.body -> 'system')
        WHEN 'null' THEN NULL
        WHEN 'string' THEN own.body -> 'system' #>> '{}'
        WHEN 'array' THEN (
            SELECT string_agg(CASE
                WHEN jsonb_typeof(block) <> 'object' THEN block #>> '{}'
                WHEN block ->> 'type' = 'text' THEN block ->> 'text'
                ELSE (block - 'cache_control')::text END, E'\n' ORDER BY number)
            FROM jsonb_array_elements(own.body -> 'system') WITH ORDINALITY AS blocks (block, number))
        ELSE (own.body -> 'system')::text END AS text
    FROM api_requests own WHERE own.request_id = said.request_id
) AS system
WHERE api_requests.request_id = said.request_id;

ANALYZE api_requests;

-- The parent of a request is the last one before it, of the same domain, that had the messages it goes on from. Where one is
-- continued more than once, the first goes on in its branch and each other begins one of its own.
WITH RECURSIVE children AS (
    SELECT child.request_id, child.domain, child.timestamp, parent.request_id AS parent_id
    FROM api_requests child
    LEFT JOIN LATERAL (
        SELECT candidate.request_id FROM api_requests candidate
        WHERE candidate.domain = child.domain
            AND candidate.current_message_hash = child.parent_message_hash
            AND (candidate.timestamp, candidate.request_id) < (child.timestamp, child.request_id)
        ORDER BY candidate.timestamp DESC, candidate.request_id DESC
        LIMIT 1
    ) parent ON true
    WHERE child.current_message_hash IS NOT NULL
), ranked AS (
    SELECT *, parent_id IS NOT NULL
        AND row_number() OVER (PARTITION BY parent_id ORDER BY timestamp, request_id) > 1 AS begins_branch
    FROM children
), conversations (request_id, conversation_id, branch_root) AS (
    SELECT request_id, request_id, NULL::uuid FROM ranked WHERE parent_id IS NULL
    UNION ALL
    SELECT ranked.request_id, conversations.conversation_id,
        CASE WHEN ranked.begins_branch THEN ranked.request_id ELSE conversations.branch_root END
    FROM conversations JOIN ranked ON ranked.parent_id = conversations.request_id
), branches AS (
    SELECT conversations.request_id,
        row_number() OVER (PARTITION BY conversation_id ORDER BY timestamp, request_id) AS number
    FROM conversations JOIN ranked USING (request_id) WHERE ranked.begins_branch
)
UPDATE api_requests
SET conversation_id = conversations.conversation_id, branch_id = coalesce('branch_' || branches.number, 'main')
FROM conversations LEFT JOIN branches ON branches.request_id = conversations.branch_root
WHERE api_requests.request_id = conversations.request_id AND api_requests.conversation_id IS NULL;

ANALYZE api_requests;
