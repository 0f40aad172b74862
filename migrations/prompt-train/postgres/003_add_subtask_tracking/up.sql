-- A request may have others done by the Task tool. What it asked for is in its answer, and the first request of such a
-- subtask says just that.

ALTER TABLE api_requests ADD COLUMN IF NOT EXISTS parent_task_request_id UUID REFERENCES api_requests (request_id) ON DELETE SET NULL;
ALTER TABLE api_requests ADD COLUMN IF NOT EXISTS is_subtask BOOLEAN NOT NULL DEFAULT false;
ALTER TABLE api_requests ADD COLUMN IF NOT EXISTS task_tool_invocation JSONB;

CREATE INDEX IF NOT EXISTS idx_requests_parent_task ON api_requests (parent_task_request_id) WHERE parent_task_request_id IS NOT NULL;
CREATE INDEX IF NOT EXISTS idx_requests_is_subtask ON api_requests (is_subtask) WHERE is_subtask;
CREATE INDEX IF NOT EXISTS idx_requests_task_invocation ON api_requests USING gin (task_tool_invocation);

COMMENT ON COLUMN api_requests.parent_task_request_id IS 'The request whose Task tool this subtask was begun by';
COMMENT ON COLUMN api_requests.is_subtask IS 'Whether it belongs to a subtask''s conversation';
COMMENT ON COLUMN api_requests.task_tool_invocation IS 'The uses of the Task tool in the answer, as an array';

UPDATE api_requests
SET task_tool_invocation = jsonb_path_query_array(response_body, '$.content[*] ? (@.type == "tool_use" && @.name == "Task")')
WHERE task_tool_invocation IS NULL
    AND jsonb_path_exists(response_body, '$.content[*] ? (@.type == "tool_use" && @.name == "Task")');

-- A subtask begins with a single message that is the prompt of a Task of the same domain in the 30 seconds before; of several
-- the last. All of its conversation goes with it.
WITH invocations AS (
    SELECT request_id, domain, timestamp, md5(invocation #>> '{input,prompt}') AS digest, invocation #>> '{input,prompt}' AS prompt
    FROM api_requests, jsonb_array_elements(task_tool_invocation) AS invocation
    WHERE jsonb_typeof(task_tool_invocation) = 'array'
), beginnings AS (
    SELECT request_id, domain, timestamp, conversation_id,
        CASE jsonb_typeof(body #> '{messages,0,content}')
            WHEN 'string' THEN body #>> '{messages,0,content}'
            WHEN 'array' THEN (
                SELECT string_agg(block ->> 'text', E'\n' ORDER BY position)
                FROM jsonb_array_elements(body #> '{messages,0,content}') WITH ORDINALITY AS blocks (block, position)
                WHERE block ->> 'type' = 'text') END AS said
    FROM api_requests
    WHERE message_count = 1 AND request_id = conversation_id AND NOT is_subtask
        AND body #>> '{messages,0,role}' = 'user'
), subtasks AS (
    SELECT DISTINCT ON (beginnings.request_id) beginnings.conversation_id, invocations.request_id AS parent_id
    FROM beginnings
    JOIN invocations ON invocations.domain = beginnings.domain
        AND invocations.digest = md5(beginnings.said) AND invocations.prompt = beginnings.said
        AND invocations.timestamp < beginnings.timestamp
        AND invocations.timestamp >= beginnings.timestamp - interval '30 seconds'
    ORDER BY beginnings.request_id, invocations.timestamp DESC, invocations.request_id DESC
)
UPDATE api_requests
SET parent_task_request_id = subtasks.parent_id, is_subtask = true
FROM subtasks
WHERE api_requests.conversation_id = subtasks.conversation_id AND NOT api_requests.is_subtask;

ANALYZE api_requests;
