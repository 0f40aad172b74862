-- A subtask belongs to the conversation that began it, as a branch of its own: subtask_1, subtask_2, in the order they began.
-- One that was begun by another subtask belongs to the conversation at the top.
WITH RECURSIVE subtasks (root_id, request_id, task_parent) AS (
    SELECT request_id, request_id, parent_task_request_id FROM api_requests child
    WHERE is_subtask AND parent_task_request_id IS NOT NULL
        AND NOT EXISTS (
            SELECT FROM api_requests parent
            WHERE parent.request_id = child.parent_request_id AND parent.is_subtask
                AND parent.parent_task_request_id = child.parent_task_request_id)
    UNION
    SELECT subtasks.root_id, child.request_id, subtasks.task_parent
    FROM subtasks JOIN api_requests child ON child.parent_request_id = subtasks.request_id
    WHERE child.is_subtask AND child.parent_task_request_id = subtasks.task_parent
), ascents (root_id, ancestor_id) AS (
    SELECT root_id, task_parent FROM subtasks WHERE root_id = request_id
    UNION
    SELECT ascents.root_id, outer_task.task_parent
    FROM ascents JOIN subtasks outer_task ON outer_task.request_id = ascents.ancestor_id
), tops AS (
    SELECT ascents.root_id, ancestor.conversation_id
    FROM ascents JOIN api_requests ancestor ON ancestor.request_id = ascents.ancestor_id
    WHERE NOT ancestor.is_subtask AND ancestor.conversation_id IS NOT NULL
), numbered AS (
    SELECT tops.root_id, tops.conversation_id,
        'subtask_' || row_number() OVER (PARTITION BY tops.conversation_id ORDER BY root.timestamp, root.request_id) AS branch_id
    FROM tops JOIN api_requests root ON root.request_id = tops.root_id
)
UPDATE api_requests
SET conversation_id = numbered.conversation_id, branch_id = numbered.branch_id
FROM subtasks JOIN numbered USING (root_id)
WHERE api_requests.request_id = subtasks.request_id
    AND (api_requests.conversation_id, api_requests.branch_id) IS DISTINCT FROM (numbered.conversation_id, numbered.branch_id);

CREATE INDEX IF NOT EXISTS idx_requests_task_time ON api_requests (domain, timestamp) WHERE task_tool_invocation IS NOT NULL;
CREATE INDEX IF NOT EXISTS idx_requests_task_response ON api_requests USING gin ((response_body -> 'content') jsonb_path_ops)
    WHERE task_tool_invocation IS NOT NULL;

ANALYZE api_requests;
