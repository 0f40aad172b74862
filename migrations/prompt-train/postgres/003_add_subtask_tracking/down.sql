ALTER TABLE api_requests DROP COLUMN task_tool_invocation;
ALTER TABLE api_requests DROP COLUMN is_subtask;
ALTER TABLE api_requests DROP COLUMN parent_task_request_id;
