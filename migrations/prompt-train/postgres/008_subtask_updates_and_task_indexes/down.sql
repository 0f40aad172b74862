-- The subtasks stay in the conversations that began them.
DROP INDEX idx_requests_task_response;
DROP INDEX idx_requests_task_time;
