DROP INDEX ix_change_requests_status;
DROP INDEX ix_change_requests_task_id;
DROP INDEX ix_artifacts_run_id;
DROP INDEX ix_artifacts_task_id;
DROP INDEX ix_tasks_status;
DROP INDEX ix_tasks_project_id;
